// The tables of a fuzzing report: its cells filtered, summed, sorted, a page at a time.
"use strict";

const PAGE = 100; // rows of the long table
const DATA = JSON.parse(document.getElementById("data").textContent);
const CELLS = DATA.rows.map(unpacked);
const STATEMENTS = new Map(DATA.laws.map((law) => [law.name, law.statement]));
const CONTRACTS = new Map(Object.entries(DATA.contracts));
const STATUSES = ["broken", "held", "known", "not reached", "not run"];

// A packed row as a cell of report.json, and the text that the filter looks into.
function unpacked(row) {
  const cell = Object.fromEntries(DATA.fields.map((name, n) => [name, row[n]]));
  for (const name of DATA.text_fields) cell[name] = cell[name] === null ? null : DATA.texts[cell[name]];
  const text = [cell.law, cell.implementation, cell.dtype, cell.device, cell.status, cell.reason];
  return { ...cell, drawn: drawn(cell.drawn), text: text.join("\n").toLowerCase() };
}

function drawn(flat) {
  const counts = [];
  for (let n = 0; n < flat.length; n += 2) {
    const name = DATA.texts[flat[n]];
    const comma = name.indexOf(", ");
    counts.push([name.slice(0, comma), name.slice(comma + 2), flat[n + 1]]);
  }
  return counts;
}

// Elements and sums

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

async function copy(block, button) {
  try {
    await navigator.clipboard.writeText(block.textContent);
    button.textContent = "copied";
  } catch {
    getSelection().selectAllChildren(block);
    button.textContent = "selected: copy it by key";
  }
  setTimeout(() => (button.textContent = "copy"), 2000);
}

function copyButton(block, label) {
  const told = { type: "button", className: "copy", ariaLabel: `copy the ${label}` };
  const button = element("button", told, "copy");
  button.addEventListener("click", () => copy(block, button));
  return button;
}

function copied(label, text) {
  const block = element("pre", { className: "copied" }, text);
  return element("div", { className: "block" }, element("h4", {}, label, copyButton(block, label)), block);
}

const number = (value) => value.toLocaleString("en");
const distinct = (rows, name) => [...new Set(rows.map((row) => row[name]))];
const sum = (rows, name) => rows.reduce((total, row) => total + row[name], 0);

function grouped(rows, keyOf) {
  const groups = new Map();
  for (const row of rows) {
    const key = keyOf(row);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(row);
  }
  return [...groups.values()];
}

function worstOf(cells) {
  const bounded = cells.filter((cell) => cell.worst !== null);
  return bounded.reduce((worst, cell) => (worst === null || cell.worst > worst.worst ? cell : worst), null);
}

// A table. A column: head, of(row), by which it is sorted; and if need be show(row, cell), number, group,
// first (of its group), opener(row) for a button that opens the row, without(row) where nothing is to open.
// opens(row): null, or what makes the elements in the opened row. sorted: by which column at first.
class Table {
  constructor(section, columns, { opens = () => null, sorted = null, page = Infinity }) {
    Object.assign(this, { columns, opens, page, column: sorted, down: true, first: 0, rows: [] });
    this.heads = columns.map((column) => this.head(column));
    this.body = element("tbody");
    const head = element("thead", {}, ...this.groups(), element("tr", {}, ...this.heads));
    section.append(element("div", { className: "scroll" }, element("table", {}, head, this.body)));
    if (page < Infinity) section.append(this.pager());
  }

  head(column) {
    const button = element("button", { type: "button" }, column.head);
    button.addEventListener("click", () => this.sortBy(column));
    return element("th", { scope: "col", className: classes(column) }, button);
  }

  groups() {
    if (!this.columns.some((column) => column.group)) return [];
    const runs = [];
    for (const { group = "" } of this.columns) {
      if (runs.at(-1)?.group === group) runs.at(-1).colSpan += 1;
      else runs.push({ group, colSpan: 1 });
    }
    const cells = runs.map(({ group, colSpan }) => element("td", { colSpan, className: "group" }, group));
    return [element("tr", {}, ...cells)];
  }

  pager() {
    this.told = element("span", { ariaLive: "polite" });
    this.back = element("button", { type: "button" }, "previous");
    this.next = element("button", { type: "button" }, "next");
    this.back.addEventListener("click", () => this.turn(-this.page));
    this.next.addEventListener("click", () => this.turn(this.page));
    return element("div", { className: "pages" }, this.back, this.next, this.told);
  }

  turn(rows) {
    this.first += rows;
    this.draw();
  }

  sortBy(column) {
    this.down = this.column === column ? !this.down : Boolean(column.number);
    this.column = column;
    this.fill(this.rows);
  }

  fill(rows) {
    this.rows = rows;
    this.first = 0;
    this.order = this.column === null ? rows : [...rows].sort((a, b) => this.compare(a, b));
    const way = this.down ? "descending" : "ascending";
    this.heads.forEach((head, n) => (head.ariaSort = this.columns[n] === this.column ? way : "none"));
    this.draw();
  }

  // What has no value is last, whichever the way.
  compare(a, b) {
    const [x, y] = [this.column.of(a), this.column.of(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    const way = typeof x === "number" ? x - y : String(x).localeCompare(String(y));
    return this.down ? -way : way;
  }

  draw() {
    const shown = this.order.slice(this.first, this.first + this.page);
    this.body.replaceChildren(...shown.map((row) => this.line(row)));
    const none = { colSpan: this.columns.length, className: "dim" };
    if (!shown.length) this.body.append(element("tr", {}, element("td", none, "none")));
    if (this.page < Infinity) this.tell(shown.length && this.first + 1, this.first + shown.length);
  }

  tell(from, to) {
    this.told.textContent = `${number(from)} to ${number(to)} of ${number(this.order.length)}`;
    this.back.disabled = this.first === 0;
    this.next.disabled = to >= this.order.length;
  }

  line(row) {
    const line = element("tr");
    this.columns.forEach((column, n) => {
      const cell = element(n ? "td" : "th", { className: classes(column) });
      if (!n) cell.scope = "row";
      if (column.opener) this.opener(cell, line, row, column);
      else (column.show ?? plain)(row, cell, column);
      line.append(cell);
    });
    return line;
  }

  opener(cell, line, row, column) {
    const inside = this.opens(row);
    if (inside === null) return cell.append(column.without(row));
    const told = { type: "button", className: "open", ariaExpanded: "false" };
    const button = element("button", told, column.opener(row));
    let opened = null;
    button.addEventListener("click", () => {
      if (opened) opened = void opened.remove();
      else line.after((opened = this.opened(inside())));
      button.ariaExpanded = String(Boolean(opened));
    });
    cell.append(button);
  }

  opened(inside) {
    const within = element("div", { className: "within" }, ...inside);
    return element("tr", { className: "opened" }, element("td", { colSpan: this.columns.length }, within));
  }
}

function classes(column) {
  const names = [column.number && "number", column.first && "first-of-group", column.className];
  return names.filter(Boolean).join(" ");
}

function plain(row, cell, column) {
  const value = column.of(row);
  cell.textContent = typeof value === "number" ? number(value) : (value ?? "");
}

// Columns that several tables have

const of = (name, more = {}) => ({ head: name, of: (row) => row[name], ...more });
const count = (name, head = name) => of(name, { head, number: true });
const KERNEL = of("implementation");
const PLACE = [of("dtype"), of("device")];
const SECONDS = of("seconds", { number: true, show: (row, cell) => cell.append(row.seconds.toFixed(1)) });

const LAW = of("law", {
  show(row, cell) {
    cell.textContent = row.law;
    cell.title = STATEMENTS.get(row.law) ?? "";
  },
});

const WORST = of("worst", {
  head: "error / bound",
  number: true,
  className: "bar",
  show(row, cell) {
    if (row.worst === null) return;
    cell.textContent = row.worst.toPrecision(3);
    cell.style.setProperty("--share", Math.min(1, row.worst));
  },
});

const STATUS = of("status", {
  show(row, cell) {
    const text = element("span", { className: `status-${row.status.replace(" ", "-")}` }, row.status);
    if (row.finding === null) return cell.append(text);
    const link = element("a", { href: `#finding-${row.finding}` }, text);
    link.addEventListener("click", () => reveal(row.finding));
    cell.append(link);
  },
});

// Open a finding, unless it is beyond those that the page shows.
function reveal(finding) {
  const details = document.getElementById(`finding-${finding}`);
  if (details) details.open = true;
}

const CASE = of("worst_case", {
  head: "case",
  opener: () => "case",
  without: (row) => (row.worst === null ? "" : "in report.json"),
});

function caseOf(row) {
  if (row.worst_case === null) return null;
  return () => [copied("case", row.worst_case), copied("recipe", row.worst_recipe ?? "")];
}

// What was tried: a row a law, and its examples by dtype and device, by regime, by length.

const DEVICES = distinct(CELLS, "device");
const placeOf = (cell) => (DEVICES.length > 1 ? `${cell.dtype} ${cell.device}` : cell.dtype);
const GROUPS = [
  ["dtype", [...new Set(CELLS.map(placeOf))]],
  ["regime", DATA.regimes],
  ["length S", DATA.lengths],
];

function lawRow(cells) {
  const counts = new Map();
  const add = (name, examples) => counts.set(name, (counts.get(name) ?? 0) + examples);
  for (const cell of cells) {
    add(placeOf(cell), cell.examples);
    for (const [regime, length, examples] of cell.drawn) {
      add(regime, examples);
      add(length, examples);
    }
  }
  const broken = new Set(cells.filter((cell) => cell.status === "broken").map(placeOf));
  const drew = cells.some((cell) => cell.drawn.length);
  return { law: cells[0].law, examples: sum(cells, "examples"), counts, broken, drew };
}

// most: by group, the largest number of any law in it; the shades of a group are its own.
function triedRows(cells) {
  const rows = grouped(cells, (cell) => cell.law).map(lawRow);
  const most = new Map(GROUPS.map(([group, names]) => [group, largest(rows, names)]));
  return rows.map((row) => ({ ...row, most }));
}

function largest(rows, names) {
  return rows.reduce((most, row) => Math.max(most, ...names.map((name) => row.counts.get(name) ?? 0)), 1);
}

function heat(name, group, first) {
  const examplesOf = (row) => row.counts.get(name) ?? 0;
  return {
    head: name.replace(/^S (= )?/, ""),
    group,
    first,
    number: true,
    of: examplesOf,
    show(row, cell) {
      const examples = examplesOf(row);
      const isGap = !examples && row.drew && group !== "dtype";
      cell.textContent = examples ? number(examples) : isGap ? "0" : "·";
      cell.classList.add(examples ? "heat" : isGap ? "gap" : "dim");
      cell.style.setProperty("--share", Math.sqrt(examples / row.most.get(group)));
      if (row.broken.has(name)) cell.classList.add("broken");
    },
  };
}

function triedColumns() {
  const heats = GROUPS.flatMap(([group, names]) => names.map((name, n) => heat(name, group, !n)));
  return [LAW, { ...count("examples", "all"), first: true }, ...heats];
}

// The other tables

function worstRows(cells) {
  return grouped(cells, (cell) => cell.law).map(worstOf).filter((cell) => cell !== null);
}

const SUMS = ["examples", "refused", "out_of_memory", "seconds"];

function kernelRows(cells) {
  return grouped(cells, (cell) => `${cell.implementation}\n${cell.device}`).map((group) => ({
    implementation: group[0].implementation,
    device: group[0].device,
    contract: JSON.stringify(CONTRACTS.get(group[0].implementation) ?? {}, null, 1),
    ...Object.fromEntries(STATUSES.map((name) => [name, group.filter((c) => c.status === name).length])),
    ...Object.fromEntries(SUMS.map((name) => [name, sum(group, name)])),
    worst: worstOf(group)?.worst ?? null,
  }));
}

const CONTRACT = of("contract", { opener: () => "contract", without: () => "bare" });
const contractOf = (row) => (row.contract === "{}" ? null : () => [copied("contract", row.contract)]);

function reasonRows(cells) {
  const unrun = cells.filter((cell) => ["known", "not reached", "not run"].includes(cell.status));
  return grouped(unrun, (cell) => `${cell.status}\n${cell.reason}`).map((group) => ({
    status: group[0].status,
    reason: group[0].reason,
    finding: null,
    cells: group.length,
    laws: distinct(group, "law").join(", "),
    number: distinct(group, "law").length,
    kernels: distinct(group, "implementation").length,
    places: `${distinct(group, "dtype").join(", ")} on ${distinct(group, "device").join(", ")}`,
  }));
}

const LAWS = { ...count("number", "laws"), opener: (row) => number(row.number) };
const lawsOf = (row) => () => [copied("laws", row.laws)];

// Of each table its section, what makes its rows of the cells, its columns, and how they are shown.
function made() {
  const cells = count("cells");
  const reason = of("reason", { className: "long" });
  const sums = [count("examples"), count("refused"), count("out_of_memory", "out of memory"), SECONDS];
  const statuses = STATUSES.map((status) => count(status));
  const where = [count("kernels", "implementations"), of("places", { head: "dtypes and devices" })];
  const kernel = [KERNEL, of("device"), ...statuses, ...sums, WORST, CONTRACT];
  const all = [LAW, KERNEL, ...PLACE, STATUS, count("turns"), ...sums, WORST, CASE, reason];
  return [
    ["tried", triedRows, triedColumns(), {}],
    ["worst", worstRows, [LAW, WORST, KERNEL, ...PLACE, CASE], { opens: caseOf, sorted: WORST }],
    ["implementations", kernelRows, kernel, { opens: contractOf }],
    ["unrun", reasonRows, [STATUS, cells, LAWS, ...where, reason], { opens: lawsOf, sorted: cells }],
    ["cells", (rows) => rows, all, { opens: caseOf, page: PAGE }],
  ].map(([id, rowsOf, ...told]) => [new Table(document.getElementById(id), ...told), rowsOf]);
}

// Filters

const TABLES = made();
const FORM = document.getElementById("filters");
const SELECTS = ["implementation", "dtype", "device", "status"];

function refill() {
  const text = FORM.elements.text.value.trim().toLowerCase();
  const chosen = SELECTS.map((name) => [name, FORM.elements[name].value]).filter(([, value]) => value);
  const fits = (cell) => cell.text.includes(text) && chosen.every(([name, value]) => cell[name] === value);
  const cells = CELLS.filter(fits);
  FORM.elements.count.textContent = `${number(cells.length)} of ${number(CELLS.length)} cells`;
  for (const [table, rowsOf] of TABLES) table.fill(rowsOf(cells));
}

function offer(name) {
  const values = distinct(CELLS, name);
  const options = values.map((value) => element("option", { value }, value));
  const select = FORM.elements[name];
  select.append(element("option", { value: "" }, `${name}: all`), ...options);
  select.hidden = values.length < 2;
  select.addEventListener("change", refill);
}

SELECTS.forEach(offer);
FORM.elements.text.addEventListener("input", refill);
FORM.addEventListener("reset", () => setTimeout(refill)); // once the fields are empty
FORM.addEventListener("submit", (event) => event.preventDefault());
for (const block of document.querySelectorAll("pre.copied")) {
  block.previousElementSibling.append(copyButton(block, block.getAttribute("aria-label")));
}
document.getElementById("explorer").hidden = CELLS.length === 0;
refill();
