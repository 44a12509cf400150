"use strict";
/* A line chart. Lines differ in dash and marker as well as colour; a table of the values follows. */

const CHART = { width: 460, height: 220, left: 48, right: 12, top: 10, bottom: 36 };
const MARKERS = [
  (x, y) => s("circle", { cx: x, cy: y, r: 4 }),
  (x, y) => s("rect", { x: x - 3.5, y: y - 3.5, width: 7, height: 7 }),
  (x, y) => s("path", { d: `M${x} ${y - 5}L${x + 5} ${y + 4}H${x - 5}Z` }),
  (x, y) => s("path", { d: `M${x} ${y - 5}L${x + 5} ${y}L${x} ${y + 5}L${x - 5} ${y}Z` }),
];

/** The figure of one chart of the overview; a chart of one point is a table alone. */
function chart(data) {
  const values = table(data.title + (data.unit ? `, ${data.unit}` : ""), [
    [data.x, ...data.series.map((series) => series.label)],
    ...data.xs.map((x, i) => [String(x), ...data.series.map((series) => short(series.values[i]))]),
  ]);
  if (data.xs.length < 2) return h("figure", { class: "chart" }, values);
  return h(
    "figure",
    { class: "chart" },
    h("figcaption", {}, data.title),
    drawing(data),
    h("ul", { class: "legend" }, data.series.map((series, i) => h("li", {}, key(i), series.label))),
    h("details", {}, h("summary", {}, `Values of “${data.title}”`), values),
  );
}

function drawing(data) {
  const scale = scalesOf(data);
  return s(
    "svg",
    {
      viewBox: `0 0 ${CHART.width} ${CHART.height}`,
      role: "img",
      "aria-label": `${data.title}: ${data.series.map((each) => described(data, each)).join("; ")}`,
    },
    axes(data, scale),
    data.series.map((series, i) => line(data, series, i, scale)),
  );
}

function described(data, series) {
  const known = series.values.filter((value) => value !== null);
  return `${series.label} from ${short(known[0])} to ${short(known.at(-1))}${data.unit && ` ${data.unit}`}`;
}

function scalesOf(data) {
  const known = data.series.flatMap((series) => series.values).filter((value) => value !== null);
  const low = Math.min(0, ...known);
  const high = data.unit === "%" ? 100 : Math.max(0, ...known) * 1.05 || (low < 0 ? 0 : 1);
  // k doubles from point to point; training steps may be many, and begin anywhere.
  const place = data.x === "k" ? Math.log2 : (x) => x;
  const [first, last] = [place(data.xs[0]), place(data.xs.at(-1))];
  return {
    ticks: [low, low + (high - low) / 2, high],
    x: (x) => CHART.left + ((place(x) - first) / (last - first)) * (CHART.width - CHART.left - CHART.right),
    y: (y) => CHART.height - CHART.bottom - ((y - low) / (high - low)) * (CHART.height - CHART.bottom - CHART.top),
  };
}

function axes(data, scale) {
  const bottom = CHART.height - CHART.bottom;
  const every = Math.ceil(data.xs.length / 8);
  const shown = data.xs.filter((_, i) => i % every === 0);
  return [
    scale.ticks.map((y) => [
      s("line", { class: "grid", x1: CHART.left, x2: CHART.width - CHART.right, y1: scale.y(y), y2: scale.y(y) }),
      s("text", { x: CHART.left - 6, y: scale.y(y) + 4, "text-anchor": "end" }, short(y)),
    ]),
    shown.map((x) => s("text", { x: scale.x(x), y: bottom + 16, "text-anchor": "middle" }, x)),
    s("text", { x: CHART.width - CHART.right, y: CHART.height - 4, "text-anchor": "end" }, data.x),
  ].flat(2);
}

function line(data, series, i, scale) {
  const points = data.xs.map((x, j) => [x, series.values[j]]).filter(([, y]) => y !== null);
  const places = points.map(([x, y]) => [scale.x(x), scale.y(y)]);
  // Markers of hundreds of points would hide the line.
  const marked = places.length <= 30 ? places : [places[0], places.at(-1)];
  return s(
    "g",
    { class: `series series-${i % 4}` },
    s("polyline", { points: places.map(([x, y]) => `${x},${y}`).join(" ") }),
    marked.map(([x, y]) => MARKERS[i % MARKERS.length](x, y)),
  );
}

function key(i) {
  return s(
    "svg",
    { viewBox: "0 0 36 12", class: "key", "aria-hidden": "true" },
    s("g", { class: `series series-${i % 4}` }, s("polyline", { points: "2,6 34,6" }), MARKERS[i % MARKERS.length](18, 6)),
  );
}
