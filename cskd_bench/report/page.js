"use strict";
// The tables are in the HTML. This script sorts and filters them, and draws evidence and figures from the
// embedded JSON when they are asked for. Every name reaches the page as text, never as markup.

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

// ---------------------------------------------------------------- embedded data: JSON, gzip, base64

const unpacked = new Map(); // element -> its data, once unpacked
const unpacking = new Map(); // element -> the promise of it

function unpack(element) {
  if (!unpacking.has(element)) {
    const bytes = Uint8Array.from(atob(element.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    unpacking.set(element, new Response(stream).json().then((data) => (unpacked.set(element, data), data)));
  }
  return unpacking.get(element);
}

const packedTable = (table) => $(`script[data-evidence="${table}"]`);
// A table's evidence, together with what all tables share.
async function evidence(table) {
  const [data] = await Promise.all([unpack(packedTable(table)), unpack($("#shared"))]);
  return data;
}

function shared(index) {
  const text = unpacked.get($("#shared")).sections[index];
  try {
    return JSON.stringify(JSON.parse(text), null, 1);
  } catch {
    return text; // a configuration may hold NaN, which is no JSON
  }
}

function node(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function draw(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "colour") element.style.setProperty("--dot", `var(--${value})`);
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

// ---------------------------------------------------------------- numbers as text

const percent = (value, digits = 2) => (100 * value).toFixed(digits);
function points(value, digits = 2) {
  const text = percent(value, digits);
  if (Number(text) === 0) return (0).toFixed(digits);
  return (value > 0 ? "+" : "−") + text.replace("-", "");
}
const shownMark = (mark) => (mark === "○" ? "n.s." : mark);
const between = (bounds, write) => (bounds ? `${write(bounds[0])} to ${write(bounds[1])}` : "–");
const pValue = (p) => (p === null ? "–" : p < 1e-4 ? "< 0.0001" : p.toFixed(4));
function duration(seconds) {
  if (seconds < 120) return `${seconds.toFixed(0)} s`;
  return seconds < 7200 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
const memory = (bytes) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

// ---------------------------------------------------------------- sorting and filtering

function sortBy(header) {
  const table = header.closest("table");
  const body = $("tbody", table);
  const previous = header.getAttribute("aria-sort");
  const first = header.dataset.sort === "name" ? "ascending" : "descending";
  const second = first === "ascending" ? "descending" : "ascending";
  const order = previous === null ? first : previous === first ? second : null;
  $$("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
  if (order) header.setAttribute("aria-sort", order);
  const place = columnOf(header);
  const key = (row) => {
    const text = order ? row.cells[place].dataset.value : row.dataset.row;
    return text === "" ? null : Number(text);
  };
  const sign = order === "descending" ? -1 : 1;
  const rows = $$("tr", body).sort((a, b) => {
    const [left, right] = [key(a), key(b)];
    if (left === null || right === null) return (left === null) - (right === null);
    return sign * (left - right) || a.dataset.row - b.dataset.row;
  });
  body.append(...rows);
  const name = header.textContent.trim();
  say(order ? `Sorted by ${name}, ${order}` : "Sorted as first shown");
}

function columnOf(header) {
  if (header.dataset.sort === "name") return 0;
  if (header.dataset.column !== undefined) return 1 + Number(header.dataset.column);
  const columns = $$("th[data-column]", header.closest("thead")).length;
  const sides = $$("th.side", header.closest("thead"));
  return 1 + columns + sides.indexOf(header);
}

function applyFilter() {
  const tokens = $("#filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const methods = new Set($$("input[name=method]:checked").map((box) => box.value));
  const all = $$("input[name=method]").length === 0;
  let shown = 0;
  for (const article of $$("article.table")) {
    const left = tokens.filter((token) => !article.dataset.words.includes(token));
    const heads = $$("th[data-column]", article);
    const kept = new Set(
      heads.filter((head) => left.every((token) => head.dataset.words.includes(token))).map((head) => head.dataset.column),
    );
    article.hidden = kept.size === 0;
    if (article.hidden) continue;
    shown += 1;
    for (const element of $$("[data-column]", article)) element.hidden = !kept.has(element.dataset.column);
    let next = 0;
    for (const task of $$("th.task", article)) {
      const mine = heads.slice(next, (next += Number(task.dataset.columns))).filter((head) => !head.hidden).length;
      task.hidden = mine === 0;
      if (mine) task.colSpan = mine;
    }
    for (const row of $$("tbody tr", article)) row.hidden = !(all || methods.has(row.dataset.label));
  }
  for (const group of $$(".group")) {
    const tables = $$("article.table", group);
    if (tables.length) group.hidden = tables.every((table) => table.hidden);
  }
  say(`${shown} ${shown === 1 ? "table" : "tables"} shown`);
}

async function chooseBaseline(kind) {
  for (const article of $$("article.table")) {
    const data = await evidence(article.dataset.table);
    if ($("input[name=baseline]:checked").value !== kind) return; // another one was chosen meanwhile
    for (const button of $$(".cell", article)) {
      const [, row, column] = button.dataset.cell.split("-");
      const found = data.cells[`${row}-${column}`].differences.find((item) => data.methods[item.row].kind === kind);
      const text = $(".difference", button);
      text.dataset.mark = found ? found.mark : "";
      text.textContent = found ? `${shownMark(found.mark)} ${points(found.mean)}` : "";
    }
    for (const tally of $$(".tally", article)) {
      const [text, order] = data.methods[tally.closest("tr").dataset.row].tallies[kind] ?? ["–", ""];
      tally.textContent = text;
      tally.dataset.value = order;
    }
  }
  say(`Differences to ${kind}`);
}

function say(text) {
  $("#status").textContent = text;
}
