"use strict";
/* The overview of the runs. */

function showOverview(section, runs) {
  document.getElementById("runs").textContent = printable(runs.map((run) => run.name).join(" · "));
  document.title = printable(`LEAFE report: ${runs.map((run) => run.name).join(", ")}`);
  section.append(...runs.map((run) => overviewOf(run)));
}

function overviewOf(run) {
  return h(
    "section",
    { class: "run" },
    h("h2", {}, run.name),
    run.notes.map((note) => h("p", { class: "aside" }, note)),
    run.figures.length
      ? h(
          "dl",
          { class: "cards" },
          run.figures.map(([label, value, meaning]) =>
            h("div", {}, h("dt", {}, label), h("dd", { class: "value" }, value), h("dd", { class: "aside" }, meaning)),
          ),
        )
      : null,
    h("div", { class: "charts" }, run.charts.map(chart), run.tables.map(({ title, rows }) => table(title, rows))),
  );
}
