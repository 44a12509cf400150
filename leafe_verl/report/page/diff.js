"use strict";
/* Two texts side by side: lines matched first, then the words of lines that were replaced. */

/** Cells of the table that matches two lists; larger lists are taken as replaced in full. */
const MAX_CELLS = 1000000;

/**
 * Edits that turn list `a` into list `b`: [["same" | "removed" | "added", item], ...], removals before additions, by
 * the longest common subsequence.
 */
function editsOf(a, b) {
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  const same = (items) => items.map((item) => ["same", item]);
  return [
    ...same(a.slice(0, start)),
    ...editsWithin(a.slice(start, a.length - end), b.slice(start, b.length - end)),
    ...same(a.slice(a.length - end)),
  ];
}

function editsWithin(a, b) {
  const replaced = [...a.map((item) => ["removed", item]), ...b.map((item) => ["added", item])];
  if (!a.length || !b.length || a.length * b.length > MAX_CELLS) return replaced;
  const width = b.length + 1;
  // lengths[i * width + j]: longest common subsequence of a from i on and b from j on.
  const lengths = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      const [skipA, skipB] = [lengths[(i + 1) * width + j], lengths[i * width + j + 1]];
      lengths[i * width + j] = a[i] === b[j] ? lengths[(i + 1) * width + j + 1] + 1 : Math.max(skipA, skipB);
    }
  }
  const edits = [];
  let [i, j] = [0, 0];
  while (i < a.length && j < b.length) {
    if (a[i] === b[j]) {
      edits.push(["same", a[i++]]);
      j++;
    } else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) {
      edits.push(["removed", a[i++]]);
    } else {
      edits.push(["added", b[j++]]);
    }
  }
  return [
    ...edits,
    ...a.slice(i).map((item) => ["removed", item]),
    ...b.slice(j).map((item) => ["added", item]),
  ];
}

/** Rows of a side-by-side view: [left, right], each null or {line, kind}; removed lines stand beside added ones. */
function rowsOf(edits) {
  const rows = [];
  let [removed, added] = [[], []];
  const flush = () => {
    for (let i = 0; i < Math.max(removed.length, added.length); i++) rows.push([removed[i] ?? null, added[i] ?? null]);
    [removed, added] = [[], []];
  };
  for (const [kind, line] of edits) {
    if (kind === "removed") removed.push({ kind, line });
    else if (kind === "added") added.push({ kind, line });
    else {
      flush();
      rows.push([{ kind, line }, { kind, line }]);
    }
  }
  flush();
  return rows;
}

/** The table of both texts; additions and removals carry a sign and an underline or a stroke, not colour alone. */
function diffTable(before, after, beforeTitle, afterTitle) {
  const lines = (text) => text.slice(0, SHOWN).split("\n");
  const rows = rowsOf(editsOf(lines(before), lines(after)));
  const isCut = Math.max(before.length, after.length) > SHOWN;
  return h(
    "div",
    { class: "scrolls", tabindex: "0", role: "group", "aria-label": "Both actions, side by side" },
    h(
      "table",
      { class: "diff" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, beforeTitle), h("th", { scope: "col" }, afterTitle))),
      h("tbody", {}, rows.map(([left, right]) => h("tr", {}, ...diffCells(left, right)))),
    ),
    isCut ? h("p", { class: "aside" }, `Compared up to ${count(SHOWN)} characters.`) : null,
  );
}

function diffCells(left, right) {
  const words = (line) => line.match(/\w+|\s+|[^\w\s]/gu) ?? [];
  const both = left && right && left.kind === "removed";
  const edits = both ? editsOf(words(left.line), words(right.line)) : null;
  return [diffCell(left, edits, "removed"), diffCell(right, edits, "added")];
}

function diffCell(side, edits, own) {
  if (!side) return h("td", { class: "absent" });
  if (side.kind === "same") return h("td", {}, h("span", { class: "sign" }, " "), side.line);
  const name = own === "removed" ? "del" : "ins";
  const parts = edits ? joined(edits.filter(([kind]) => kind === "same" || kind === own)) : [[own, side.line]];
  return h(
    "td",
    { class: own },
    h("span", { class: "sign" }, own === "removed" ? "−" : "+"),
    h("span", { class: "unseen" }, own === "removed" ? "removed: " : "added: "),
    parts.map(([kind, text]) => (kind === "same" ? text : h(name, {}, text))),
  );
}

/** Merge neighbouring parts of the same kind. */
function joined(edits) {
  const parts = [];
  for (const [kind, text] of edits) {
    if (parts.length && parts.at(-1)[0] === kind) parts.at(-1)[1] += text;
    else parts.push([kind, text]);
  }
  return parts;
}
