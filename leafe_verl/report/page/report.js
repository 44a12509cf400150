"use strict";
/* The page: which tree and which step are open, by the address behind #. */

/** Inflated chunks kept: going from tree to tree inflates each once. */
const KEPT = 4;

function addressOf(tree, attempt, step) {
  return attempt === undefined ? `#tree-${tree}` : `#tree-${tree}-${attempt}-${step}`;
}

/** What an address points to: {tree, attempt, step}, or null for the start page. */
function placeOf(address) {
  const found = /^#tree-(\d+)(?:-(\d+)-(\d+))?$/.exec(address);
  if (!found) return null;
  const [tree, attempt, step] = found.slice(1).map((part) => (part === undefined ? null : Number(part)));
  return { tree, attempt, step };
}

class Chunks {
  constructor() {
    this.kept = new Map();
  }

  /** The chunk's trees and token texts. */
  open(number) {
    const chunk = this.kept.get(number) ?? this.inflate(number);
    this.kept.delete(number);
    this.kept.set(number, chunk);
    if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
    return chunk;
  }

  async inflate(number) {
    await parsed();
    const text = document.getElementById(`chunk-${number}`).textContent;
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }
}

/** Resolves when the whole file has been read: the chunks are at its end. */
function parsed() {
  if (document.readyState !== "loading") return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("DOMContentLoaded", resolve, { once: true }));
}

class Page {
  constructor() {
    this.runs = dataOf("overview");
    this.index = readIndex(dataOf("index"));
    this.chunks = new Chunks();
    this.place = null;
    this.unfolded = [];
    this.front = document.getElementById("front");
    this.article = document.getElementById("tree-section");
    showOverview(document.getElementById("overview-section"), this.runs);
    this.list = new TaskList(document.getElementById("tasks-section"), this.index, this.runs);
    addEventListener("hashchange", () => this.follow());
    addEventListener("keydown", (event) => event.key === "Escape" && this.leave());
    addEventListener("beforeprint", () => this.unfold());
    addEventListener("afterprint", () => this.fold());
    this.follow();
  }

  /** Show what the address points to. */
  async follow() {
    const before = this.place;
    const place = placeOf(location.hash);
    this.place = place;
    if (!place || !(place.tree in this.index.rows)) return this.showFront(before);
    const row = this.index.rows[place.tree];
    try {
      const { trees, pieces } = await this.chunks.open(row.chunk);
      // Another address may have been followed while the chunk was inflated.
      if (this.place === place) this.showTree(trees[row.place], pieces, place, before);
    } catch (error) {
      this.article.replaceChildren(h("p", { role: "alert" }, `This tree cannot be read (${error}): the file is damaged; write the report again.`));
      this.toggle(true);
    }
  }

  toggle(isTree) {
    this.front.hidden = isTree;
    this.article.hidden = !isTree;
  }

  showFront(before) {
    this.toggle(false);
    this.article.replaceChildren();
    const link = before && document.getElementById(`row-${before.tree}`);
    if (!link) return;
    link.focus({ preventScroll: true });
    link.scrollIntoView({ block: "center" });
  }

  showTree(tree, pieces, place, before) {
    const isNew = before?.tree !== place.tree || !this.article.firstChild;
    if (isNew) this.article.replaceChildren(...this.treeView(tree, place.tree));
    this.toggle(true);
    const isStep = place.attempt !== null && isStepOf(tree, place.attempt, place.step);
    document.getElementById("step-place").replaceChildren(...(isStep ? [stepView(tree, pieces, place.tree, place.attempt, place.step)] : []));
    this.mark(isStep ? place : null);
    const heading = document.getElementById(isStep ? "step-heading" : "tree-heading");
    if (isNew && !isStep) scrollTo(0, 0);
    // Escape from a step goes back to the picture; all else begins at what was opened.
    const back = !isStep && !isNew && this.article.querySelector('a.node[tabindex="0"]');
    (back || heading).focus();
    if (isStep) heading.scrollIntoView({ block: "start" });
  }

  mark(place) {
    for (const node of this.article.querySelectorAll("a.node")) {
      const isOpen = place && node.dataset.attempt === String(place.attempt) && node.dataset.step === String(place.step);
      if (isOpen) node.setAttribute("aria-current", "true");
      else node.removeAttribute("aria-current");
    }
  }

  treeView(tree, number) {
    const row = this.index.rows[number];
    const facts = [
      this.runs.length > 1 && `run ${this.runs[row.run].name}`,
      tree.environment,
      tree.step !== null && `training step ${tree.step}`,
      `${MARKS[this.index.results[row.result]]} ${this.index.results[row.result]}`,
      plural(tree.attempts.length, "attempt"),
      plural(row.branches, "branch", "branches") + (row.branches ? ` of which ${row.improved} improved` : ""),
      tree.hasTokens && plural(tree.examples.length, "example"),
    ];
    return [
      this.treeLinks(number),
      h("h2", { id: "tree-heading", tabindex: "-1" }, h("bdi", {}, cut(tree.key, 300))),
      h("p", { class: "aside" }, facts.filter(Boolean).join(" · ")),
      tree.note ? h("p", { class: "aside" }, tree.note) : null,
      tree.instruction ? verbatim(tree.instruction, "Instruction") : null,
      pictureOf(tree, number),
      h("div", { id: "step-place" }, null),
      reflectionsOf(tree),
    ].filter(Boolean);
  }

  /** Links to the list, and to the trees before and after in its order. */
  treeLinks(number) {
    const place = this.list.shown.findIndex((row) => row.number === number);
    const [before, after] = [this.list.shown[place - 1], place < 0 ? undefined : this.list.shown[place + 1]];
    return h(
      "nav",
      { class: "links", "aria-label": "Trees" },
      h("a", { href: "#" }, "← all tasks"),
      before && h("a", { href: addressOf(before.number) }, "tree before"),
      after && h("a", { href: addressOf(after.number) }, "tree after"),
    );
  }

  /** Escape: from a step to its tree, from a tree to the list. */
  leave() {
    if (!this.place) return;
    location.hash = this.place.attempt === null ? "" : addressOf(this.place.tree);
  }

  /** Sections that are collapsed on the screen are printed in full. */
  unfold() {
    const folded = [...document.querySelectorAll("details:not([open])")];
    for (const details of folded) details.open = true;
    // A preview may begin twice before it ends.
    this.unfolded.push(...folded);
  }

  fold() {
    for (const details of this.unfolded) details.open = false;
    this.unfolded = [];
  }
}

function isStepOf(tree, attempt, step) {
  const found = tree.attempts[attempt];
  return found !== undefined && step >= found.from && step <= lastStepOf(found);
}

/** All reflections on the tree's attempts, including those that no branch used. */
function reflectionsOf(tree) {
  if (!tree.reflections.length) return null;
  return h(
    "details",
    {},
    h("summary", {}, h("h3", {}, `All reflections (${count(tree.reflections.length)})`)),
    h(
      "ol",
      { class: "messages" },
      tree.reflections.map((each) =>
        h("li", {}, h("p", { class: "role" }, readingOf(each)), verbatim(each.text || each.experience, "Reflection")),
      ),
    ),
  );
}

new Page();
