"use strict";
/* Builds elements. Every text of a task, a model or an environment is made printable and set through `textContent`. */

const SVG = "http://www.w3.org/2000/svg";

/** Characters of a text that are shown at first: browsers take minutes to lay out a line of a megabyte. */
const SHOWN = 20000;

/**
 * An element with attributes and children. Attribute `on` maps events to listeners; null and false leave one out.
 * Children are elements or texts; null ones are left out.
 */
function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for SVG. */
function s(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else {
      element.setAttribute(name, value === true ? "" : printable(String(value)));
    }
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined) continue;
    element.append(child instanceof Node ? child : document.createTextNode(printable(String(child))));
  }
  return element;
}

/**
 * The text with everything visible that would otherwise be unseen, or change how the text around it reads: control
 * characters as their pictures, lone surrogates and directional overrides by their code.
 */
function printable(text) {
  return text
    .replace(/\r\n/g, "\n")
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/\u007f/g, "\u2421")
    .replace(/[\u0080-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g, code)
    .replace(/\p{Surrogate}/gu, code);
}

function code(character) {
  return `⟨${character.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
}

/** A verbatim text. A long one shows only its beginning, and a button for the rest. */
function verbatim(text, label) {
  const block = h("pre", { class: "verbatim", tabindex: "0", role: "group", "aria-label": label }, text.slice(0, SHOWN));
  if (text === "") block.append(h("span", { class: "aside" }, "(empty)"));
  if (text.length <= SHOWN) return block;
  const more = h("button", { type: "button" }, `Show all ${count(text.length)} characters`);
  more.addEventListener("click", () => {
    block.textContent = printable(text);
    more.remove();
    block.focus();
  });
  return h("div", {}, block, more);
}

/** A table of rows of text, the first of which is the heading; its first column names the rows. */
function table(caption, rows) {
  const [heading, ...body] = rows;
  return h(
    "div",
    { class: "scrolls", tabindex: "0", role: "group", "aria-label": caption },
    h(
      "table",
      { class: "figures" },
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, heading.map((cell) => (cell === "" ? h("td") : h("th", { scope: "col" }, cell))))),
      h(
        "tbody",
        {},
        body.map(([name, ...cells]) => h("tr", {}, h("th", { scope: "row" }, name), cells.map((cell) => h("td", {}, cell)))),
      ),
    ),
  );
}

/** An integer with thousands separated. */
function count(number) {
  return number.toLocaleString("en");
}

function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** A return, a reward or a loss in short form; a dash if there is none. */
function short(number) {
  if (number === null || number === undefined) return "–";
  const size = Math.abs(number);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return number.toExponential(1);
  return String(Number(number.toFixed(size < 10 ? 3 : 1)));
}

/** Announce a message to screen readers. */
function announce(text) {
  document.getElementById("status").textContent = printable(text);
}

function dataOf(id) {
  return JSON.parse(document.getElementById(id).textContent);
}
