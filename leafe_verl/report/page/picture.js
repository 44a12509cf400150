"use strict";
/* A tree as a picture: a row for each attempt, a column for each step, a line down from each rollback point. */

const PICTURE = { column: 84, row: 84, left: 64, radius: 17, end: 120, top: 34 };
const ENDINGS = {
  success: "✓ success",
  failure: "✗ failure",
  horizon: "✗ horizon",
  environment_failure: "? environment failed",
  environment_timeout: "? environment hung",
  environment_flood: "? observation too long",
  replay_divergence: "? replay diverged",
  policy_failure: "? server failed",
  policy_timeout: "? no action came",
  context_overflow: "? window full",
  interrupted: "? cut short",
};

/** Index of the attempt that executed step `t` of an attempt's path. */
function ownerOf(tree, attempt, t) {
  const { parent, from } = tree.attempts[attempt];
  return parent !== null && t < from ? ownerOf(tree, parent, t) : attempt;
}

/** Index of the attempt in whose row the state before step `t` lies: a branch has its first state from its parent. */
function stateOwnerOf(tree, attempt, t) {
  const { parent, from } = tree.attempts[attempt];
  return parent !== null && t <= from ? stateOwnerOf(tree, parent, t) : attempt;
}

function stepOf(tree, attempt, t) {
  const owner = tree.attempts[ownerOf(tree, attempt, t)];
  return owner.steps[t - owner.from];
}

/** The first step that an attempt executed itself, if it executed any. */
function ownFirstOf(tree, attempt) {
  return Math.min(Math.max(attempt.from, tree.given + 1), lastStepOf(attempt));
}

function lastStepOf(attempt) {
  return attempt.from + attempt.steps.length - 1;
}

/** The examples that train on a step: its action (0) or its feedback (1). */
function examplesOn(tree, attempt, t, part) {
  return tree.examples.filter((each) => each.parts.some(([a, u, p]) => a === attempt && u === t && p === part));
}

/** The picture with its notes; `treeNumber` is what the links lead to. */
function pictureOf(tree, treeNumber) {
  const steps = Math.max(1, ...tree.attempts.map(lastStepOf));
  const width = PICTURE.left + steps * PICTURE.column + PICTURE.end;
  const height = PICTURE.top + tree.attempts.length * PICTURE.row;
  const nodes = tree.attempts.flatMap((attempt, a) => attempt.steps.map((_, i) => nodeOf(tree, treeNumber, a, attempt.from + i)));
  if (nodes.length) nodes[0].setAttribute("tabindex", "0");
  const svg = s(
    "svg",
    {
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      role: "group",
      "aria-label": "Exploration tree. Arrow keys go from step to step, Enter opens one.",
      on: { keydown: moveFocus, focusin: (event) => rove(event) },
    },
    Array.from({ length: steps }, (_, i) => s("text", { class: "axis", x: placeX(i + 1), y: 18 }, `step ${i + 1}`)),
    tree.attempts.map((_, a) => pathOf(tree, a)),
    tree.attempts.map((_, a) => namesOf(tree, a)),
    tree.attempts.map((attempt) => (attempt.parent === null ? null : rollbackOf(tree, attempt))),
    nodes,
  );
  return h(
    "div",
    {},
    h(
      "div",
      { class: "picture" },
      h("div", { class: "drawing" }, svg),
      h("ol", { class: "notes", start: "0" }, tree.attempts.map((_, a) => noteOf(tree, treeNumber, a))),
    ),
    legendOf(tree),
  );
}

function placeX(t) {
  return PICTURE.left + (t - 0.5) * PICTURE.column;
}

function placeY(attempt) {
  return PICTURE.top + (attempt + 0.5) * PICTURE.row;
}

/** Where the state before a step lies: half a column before it. */
function stateX(t) {
  return placeX(t) - PICTURE.column / 2;
}

/**
 * Where a rollback point is drawn: points before the same step of different attempts stand beside each other, so that
 * each line down leads to its own.
 */
function rollbackX(tree, attempt) {
  const owner = stateOwnerOf(tree, attempt.parent, attempt.from);
  const owners = tree.attempts
    .filter((each) => each.parent !== null && each.from === attempt.from)
    .map((each) => stateOwnerOf(tree, each.parent, each.from));
  const lanes = [...new Set(owners)].sort((a, b) => a - b);
  const width = Math.min(9, 30 / lanes.length);
  return stateX(attempt.from) + (lanes.indexOf(owner) - (lanes.length - 1) / 2) * width;
}

/** Where an attempt's line begins: at its root or above its rollback point. */
function beginX(tree, attempt) {
  return attempt.parent === null ? stateX(attempt.from) : rollbackX(tree, attempt);
}

function endX(tree, attempt) {
  return attempt.steps.length ? placeX(lastStepOf(attempt)) : beginX(tree, attempt) + 14;
}

/** An attempt's number and how it ended; lines of other attempts pass behind them. */
function namesOf(tree, a) {
  const attempt = tree.attempts[a];
  return s(
    "g",
    { "aria-hidden": "true" },
    s("text", { class: "number", x: 8, y: placeY(a) + 4 }, `#${a}`),
    s("text", { class: "ending", x: endX(tree, attempt) + PICTURE.radius + 8, y: placeY(a) + 4 }, ENDINGS[attempt.outcome]),
  );
}

/** The line of an attempt: from its root or rollback point along its own steps. */
function pathOf(tree, a) {
  const attempt = tree.attempts[a];
  const isRoot = attempt.parent === null;
  const [x, y, end] = [beginX(tree, attempt), placeY(a), endX(tree, attempt)];
  const begin = isRoot ? `M${x} ${y}` : `M${x} ${placeY(stateOwnerOf(tree, attempt.parent, attempt.from))}V${y - 12}Q${x} ${y} ${x + 12} ${y}`;
  return s(
    "g",
    { class: isRoot ? "path root" : "path branch", "aria-hidden": "true" },
    s("path", { d: `${begin}H${Math.max(end, x + 12)}` }),
    isRoot ? s("circle", { class: "start", cx: x, cy: y, r: 4 }) : null,
  );
}

/** The rollback point that an attempt begins at. */
function rollbackOf(tree, attempt) {
  const [x, y] = [rollbackX(tree, attempt), placeY(stateOwnerOf(tree, attempt.parent, attempt.from))];
  return s("path", { class: "rollback", "aria-hidden": "true", d: `M${x} ${y - 8}l8 8l-8 8l-8 -8Z` });
}

function nodeOf(tree, treeNumber, a, t) {
  const step = stepOf(tree, a, t);
  const [x, y, r] = [placeX(t), placeY(a), PICTURE.radius];
  const isTrained = [0, 1].some((part) => examplesOn(tree, a, t, part).length);
  const frame = (size, name) =>
    step.error
      ? s("rect", { class: name, x: x - size, y: y - size, width: 2 * size, height: 2 * size, rx: 4 })
      : s("circle", { class: name, cx: x, cy: y, r: size });
  const isGiven = t <= tree.given;
  const said = [`Attempt ${a}, step ${t}`, isGiven && "given", `return ${short(step.return)}`, step.error && "error", isTrained && "trained on"];
  return s(
    "a",
    {
      class: `node level-${levelOf(tree, step.return)}${isGiven ? " given" : ""}`,
      href: addressOf(treeNumber, a, t),
      tabindex: "-1",
      "data-attempt": a,
      "data-step": t,
      "aria-label": said.filter(Boolean).join(", "),
    },
    isTrained ? frame(r + 4, "trained") : null,
    frame(r, "frame"),
    s("text", { x, y: y + 4 }, short(step.return)),
  );
}

function returnsOf(tree) {
  const returns = tree.attempts.flatMap((each) => each.steps.map((step) => step.return)).filter((value) => value !== null);
  return returns.length ? [Math.min(...returns), Math.max(...returns)] : [0, 0];
}

/** 0 to 4: where a return lies between the tree's lowest and highest. */
function levelOf(tree, value) {
  const [low, high] = returnsOf(tree);
  if (high === low) return value > 0 ? 4 : 0;
  return Math.min(4, Math.floor(((value - low) / (high - low)) * 5));
}

/** What stands beside an attempt's row: where it came from, the experience that caused it, what came of it. */
function noteOf(tree, treeNumber, a) {
  const attempt = tree.attempts[a];
  const reflection = attempt.reflection === null ? null : tree.reflections[attempt.reflection];
  const start = tree.given ? `goes on after ${plural(tree.given, "given step")}` : "from the start";
  const from = attempt.parent === null ? start : `back to step ${attempt.from} of attempt ${attempt.parent}`;
  const result = [`best return ${short(attempt.best)}`, attempt.improved && "▲ improved", reflection && !reflection.parsed && "fallback"];
  const name = `Attempt ${a}`;
  return h(
    "li",
    {},
    h(
      "p",
      { class: "origin" },
      attempt.steps.length ? h("a", { href: addressOf(treeNumber, a, ownFirstOf(tree, attempt)) }, name) : name,
      ` ${from}: ${result.filter(Boolean).join(", ")}`,
    ),
    reflection ? h("p", { class: "experience" }, h("span", { class: "unseen" }, "Experience: "), cut(reflection.experience, 400)) : null,
    attempt.error ? h("p", { class: "experience" }, `Broke: ${cut(attempt.error, 400)}`) : null,
  );
}

function legendOf(tree) {
  const [low, high] = returnsOf(tree);
  const sample = (...shapes) => s("svg", { viewBox: "0 0 24 24", class: "sample", "aria-hidden": "true" }, shapes);
  const swatch = (level) => s("g", { class: `node level-${level}` }, s("rect", { class: "frame", x: 2, y: 4, width: 20, height: 16 }));
  return h(
    "ul",
    { class: "legend" },
    h("li", {}, [0, 1, 2, 3, 4].map((level) => sample(swatch(level))), `return so far, from ${short(low)} to ${short(high)}`),
    h("li", {}, sample(s("rect", { class: "outline", x: 3, y: 3, width: 18, height: 18, rx: 3 })), "feedback reports an error"),
    tree.given ? h("li", {}, sample(s("circle", { class: "outline dashed", cx: 12, cy: 12, r: 8 })), "given: executed by an earlier attempt") : null,
    h("li", {}, sample(s("path", { class: "rollback", d: "M12 4l8 8l-8 8l-8 -8Z" })), "rollback point"),
    h("li", {}, sample(s("circle", { class: "trained", cx: 12, cy: 12, r: 9 }), s("circle", { class: "outline", cx: 12, cy: 12, r: 5 })), "a second outline: trained on"),
  );
}

/** Arrow keys: along an attempt's path, and to the nearest step of the attempts above and below. */
function moveFocus(event) {
  const nodes = [...event.currentTarget.querySelectorAll("a.node")];
  const here = event.target.closest("a.node");
  const target = here && neighbour(nodes, here, event.key);
  if (!target) return;
  event.preventDefault();
  target.focus();
}

function neighbour(nodes, here, key) {
  const [row, column] = [Number(here.dataset.attempt), Number(here.dataset.step)];
  const at = (a, t) => nodes.find((node) => Number(node.dataset.attempt) === a && Number(node.dataset.step) === t);
  if (key === "Home") return nodes[0];
  if (key === "End") return nodes.at(-1);
  if (key === "ArrowLeft") return at(row, column - 1) ?? nodes.findLast((n) => n.dataset.step === String(column - 1) && Number(n.dataset.attempt) < row);
  if (key === "ArrowRight") return at(row, column + 1);
  const side = key === "ArrowUp" ? -1 : key === "ArrowDown" ? 1 : 0;
  const beyond = nodes.map((node) => Number(node.dataset.attempt)).filter((a) => (a - row) * side > 0);
  if (!side || !beyond.length) return null;
  const next = side > 0 ? Math.min(...beyond) : Math.max(...beyond);
  const distance = (node) => Math.abs(Number(node.dataset.step) - column);
  return nodes.filter((node) => Number(node.dataset.attempt) === next).sort((m, n) => distance(m) - distance(n))[0];
}

/** Tab leaves the picture at once and comes back to the step that was left. */
function rove(event) {
  const here = event.target.closest("a.node");
  if (!here) return;
  for (const node of event.currentTarget.querySelectorAll("a.node")) node.setAttribute("tabindex", node === here ? "0" : "-1");
}
