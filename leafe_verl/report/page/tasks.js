"use strict";
/* The list of tasks: sorted, filtered, and rendered as far as it has been scrolled. */

/** Rows rendered at once; more follow when the end of the list comes into view. */
const PAGE = 100;
const MARKS = { "first try": "✓", "after rollback": "↺", unsolved: "✗", unscored: "?" };

/** Columns of the list: heading, what is sorted by, what is shown; `first` is how it is sorted at the first click. */
function columnsOf(index, runs) {
  const number = (name) => ({ value: (row) => row[name] ?? -Infinity, show: (row) => short(row[name]), class: "number" });
  const share = (part, whole) => ({
    value: (row) => (row[whole] ? row[part] / row[whole] : -1),
    show: (row) => (row[whole] ? `${row[part]} of ${row[whole]}` : "–"),
    class: "number",
  });
  const text = (name, show = (row) => row[name]) => ({ value: (row) => row[name], show, first: 1 });
  const varied = (name) => new Set(index.rows.map((row) => row[name])).size > 1;
  return [
    { heading: "Task", ...text("key"), link: true },
    varied("run") && { heading: "Run", ...text("run", (row) => runs[row.run].name) },
    varied("environment") && { heading: "Environment", ...text("environment") },
    varied("step") && { heading: "Step", ...number("step"), first: 1 },
    { heading: "Solved", ...text("result", (row) => `${MARKS[index.results[row.result]]} ${index.results[row.result]}`) },
    { heading: "Best return", ...number("best") },
    { heading: "Attempts", ...number("attempts") },
    { heading: "Branches improved", ...share("improved", "branches") },
    { heading: "Reflections parsed", ...share("parsed", "reflections") },
    { heading: "Examples", ...number("examples") },
  ].filter(Boolean);
}

/** The index as objects: column -> value, and the row's own number as `number`. */
function readIndex(data) {
  const rows = data.rows.map((values, number) => {
    const row = { number };
    data.columns.forEach((name, i) => (row[name] = values[i]));
    return row;
  });
  return { rows, results: data.results };
}

class TaskList {
  constructor(section, index, runs) {
    this.index = index;
    this.columns = columnsOf(index, runs);
    this.sorting = { column: null, direction: 1 };
    this.shown = index.rows;
    this.rendered = 0;
    this.body = h("tbody");
    this.count = h("p", { role: "status", class: "aside", id: "task-count" });
    this.more = h("button", { type: "button", on: { click: () => this.render() } }, "Show more");
    this.headings = this.columns.map((column) => this.heading(column));
    section.append(
      h("h2", { id: "tasks-heading" }, "Tasks"),
      index.rows.length ? this.filters() : h("p", {}, "No tree was stored."),
      this.count,
      h(
        "div",
        { class: "scrolls", tabindex: "0", role: "group", "aria-label": "List of tasks" },
        h("table", { class: "tasks" }, h("thead", {}, h("tr", {}, this.headings)), this.body),
      ),
      this.more,
    );
    new IntersectionObserver((entries) => entries.some((e) => e.isIntersecting) && this.render()).observe(this.more);
    this.update();
  }

  heading(column) {
    const button = h("button", { type: "button", on: { click: () => this.sort(column) } }, column.heading);
    return h("th", { scope: "col", class: column.class }, button);
  }

  filters() {
    const changed = () => this.update();
    this.text = h("input", { type: "search", id: "filter-text", on: { input: changed }, placeholder: "key or instruction" });
    this.result = this.select("filter-result", this.index.results.map((name, i) => [i, `${MARKS[name]} ${name}`]), changed);
    const steps = [...new Set(this.index.rows.map((row) => row.step))].filter((step) => step !== null).sort((a, b) => a - b);
    this.step = steps.length > 1 ? this.select("filter-step", steps.map((step) => [step, step]), changed) : null;
    this.improved = h("input", { type: "checkbox", id: "filter-improved", on: { change: changed } });
    return h(
      "form",
      { class: "filters", role: "search", on: { submit: (event) => event.preventDefault() } },
      h("label", {}, "Find ", this.text),
      h("label", {}, "Solved ", this.result),
      this.step && h("label", {}, "Training step ", this.step),
      h("label", {}, this.improved, " a branch improved"),
    );
  }

  select(id, options, changed) {
    const entries = [["", "any"], ...options].map(([value, name]) => h("option", { value }, name));
    return h("select", { id, on: { change: changed } }, entries);
  }

  sort(column) {
    const first = column.first ?? -1;
    const again = this.sorting.column === column;
    this.sorting = { column, direction: again ? -this.sorting.direction : first };
    this.update();
    announce(`Sorted by ${column.heading}, ${this.sorting.direction > 0 ? "ascending" : "descending"}`);
  }

  accepts(row, words) {
    if (this.result.value !== "" && row.result !== Number(this.result.value)) return false;
    if (this.step && this.step.value !== "" && row.step !== Number(this.step.value)) return false;
    if (this.improved.checked && !row.improved) return false;
    const text = words.length ? `${row.key} ${row.instruction}`.toLowerCase() : "";
    return words.every((word) => text.includes(word));
  }

  update() {
    if (!this.index.rows.length) {
      this.more.hidden = true;
      return;
    }
    const words = this.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    this.shown = this.index.rows.filter((row) => this.accepts(row, words));
    const { column, direction } = this.sorting;
    if (column) this.shown.sort((a, b) => direction * ordered(column.value(a), column.value(b)) || a.number - b.number);
    this.columns.forEach((each, i) => {
      if (each === column) this.headings[i].setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else this.headings[i].removeAttribute("aria-sort");
    });
    this.body.replaceChildren();
    this.rendered = 0;
    this.render();
  }

  /** Append the next page of rows. */
  render() {
    const rows = this.shown.slice(this.rendered, this.rendered + PAGE);
    this.body.append(...rows.map((row) => this.rowOf(row)));
    this.rendered += rows.length;
    this.more.hidden = this.rendered >= this.shown.length;
    const all = plural(this.index.rows.length, "tree");
    const listed = this.more.hidden ? "" : `; the first ${count(this.rendered)} are listed`;
    this.count.textContent = this.shown.length === this.index.rows.length ? all + listed : `${count(this.shown.length)} of ${all}${listed}`;
  }

  rowOf(row) {
    const cells = this.columns.map((column) => {
      if (!column.link) return h("td", { class: column.class }, column.show(row));
      const link = h("a", { href: addressOf(row.number), id: `row-${row.number}` }, h("bdi", {}, cut(row.key, 80)));
      return h("th", { scope: "row" }, link, h("div", { class: "excerpt" }, row.instruction));
    });
    return h("tr", {}, cells);
  }
}

function ordered(a, b) {
  if (typeof a === "string") return a.localeCompare(b, "en", { numeric: true });
  return a < b ? -1 : a > b ? 1 : 0;
}

/** The text, shortened to a number of characters. */
function cut(text, characters) {
  return text.length > characters ? `${text.slice(0, characters - 1)}…` : text;
}
