"use strict";
// The tables are in the HTML. This script sorts and filters them, and draws evidence and figures from the
// embedded JSON when they are asked for. Every name reaches the page as text, never as markup.

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const parsed = new Map();

function evidence(table) {
  if (!parsed.has(table)) parsed.set(table, JSON.parse($(`script[data-evidence="${table}"]`).textContent));
  return parsed.get(table);
}

let sharedTexts = null;
function shared(index) {
  sharedTexts ??= JSON.parse($("#shared").textContent).sections;
  try {
    return JSON.stringify(JSON.parse(sharedTexts[index]), null, 1);
  } catch {
    return sharedTexts[index]; // a configuration may hold NaN, which is no JSON
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

function chooseBaseline(kind) {
  for (const article of $$("article.table")) {
    const data = evidence(article.dataset.table);
    for (const button of $$(".cell", article)) {
      const [, row, column] = button.dataset.cell.split("-");
      const found = data.cells[`${row}-${column}`].differences.find((item) => data.methods[item.row].kind === kind);
      const text = $(".difference", button);
      text.dataset.mark = found ? found.mark : "";
      text.textContent = found ? `${found.mark} ${points(found.mean)}` : "";
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

// ---------------------------------------------------------------- charts

const WIDTH = 460, HEIGHT = 264, LEFT = 44, RIGHT = 34, TOP = 26, BOTTOM = 36;

function ticks(low, high, wanted = 5) {
  const raw = (high - low || 1) / wanted;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * unit).find((size) => size >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

function frame({ x, y, xName, yName, title, yText = (v) => `${v}`, xText = (v) => `${v}`, logX = false }) {
  const scaleX = logX ? Math.log10 : (v) => v;
  const [x0, x1] = [scaleX(x[0]), scaleX(x[1])];
  const px = (value) => LEFT + ((scaleX(value) - x0) / (x1 - x0 || 1)) * (WIDTH - LEFT - RIGHT);
  const py = (value) => HEIGHT - BOTTOM - ((value - y[0]) / (y[1] - y[0] || 1)) * (HEIGHT - TOP - BOTTOM);
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
  for (const value of ticks(y[0], y[1])) {
    svg.append(draw("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: py(value), y2: py(value) }));
    svg.append(draw("text", { x: LEFT - 7, y: py(value) + 4, "text-anchor": "end" }, yText(value)));
  }
  for (const value of logX ? [x[0], x[1]] : ticks(x[0], x[1])) {
    svg.append(draw("text", { x: px(value), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, xText(value)));
  }
  svg.append(draw("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
  svg.append(draw("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, xName));
  svg.append(draw("text", { x: LEFT - 38, y: TOP - 14 }, yName));
  return { svg, px, py };
}

function path(xs, ys, px, py) {
  let text = "";
  let pen = false;
  xs.forEach((x, index) => {
    if (ys[index] === null || ys[index] === undefined || x === null) { pen = false; return; }
    text += `${pen ? "L" : "M"}${px(x).toFixed(1)} ${py(ys[index]).toFixed(1)}`;
    pen = true;
  });
  return text;
}

function key(entries) {
  return node("ul", { class: "key" }, entries.map(([name, colour, dashed]) => {
    const item = node("li", { class: dashed ? "dashed" : null }, name);
    item.style.setProperty("--dot", `var(--${colour})`);
    return item;
  }));
}

function padded(values, share = 0.08) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low || Math.abs(high) || 1) * share;
  return [low - room, high + room];
}

const CURVE_NAMES = {
  top1: "top-1", ema_top1: "top-1 of EMA weights", lr: "learning rate", fusion_ratio: "CKF ratio r",
  total: "total loss", label: "label loss", global: "global loss", spatial: "spatial loss",
};
const isShare = (name) => /top1|top5|accuracy|agreement/.test(name);

// curves: [{name, colour, curve: {key: [values]}}]; one line per record, the ratio r dashed on the right.
function learningCurves(curves, quantity, title) {
  const series = curves.filter((item) => item.curve[quantity] && item.curve.epoch);
  const factor = isShare(quantity) ? 100 : 1;
  const ys = series.flatMap((item) => item.curve[quantity]).filter((value) => value !== null).map((value) => value * factor);
  const xs = series.flatMap((item) => item.curve.epoch).filter((value) => value !== null);
  if (!ys.length) return node("p", { class: "soft" }, "No curve was recorded.");
  const { svg, px, py } = frame({
    x: [Math.min(...xs), Math.max(...xs)], y: padded(ys), xName: "epoch", title,
    yName: (CURVE_NAMES[quantity] || quantity) + (factor === 100 ? ", %" : ""), yText: (v) => `${Number(v.toPrecision(6))}`,
  });
  const varies = (item) => item.curve.epoch && new Set(item.curve.fusion_ratio ?? []).size > 1;
  const ratio = curves.find(varies);
  if (ratio) {
    const right = (value) => HEIGHT - BOTTOM - value * (HEIGHT - TOP - BOTTOM);
    svg.append(draw("path", { class: "ratio", d: path(ratio.curve.epoch, ratio.curve.fusion_ratio, px, right) }));
    for (const value of [0, 0.5, 1]) svg.append(draw("text", { x: WIDTH - RIGHT + 6, y: right(value) + 4 }, `${value}`));
    svg.append(draw("text", { x: WIDTH, y: TOP - 14, "text-anchor": "end" }, "r"));
  }
  for (const item of series) {
    const scaled = item.curve[quantity].map((value) => (value === null ? null : value * factor));
    svg.append(draw("path", { class: item.thin ? "thin" : "line", stroke: `var(--${item.colour})`, d: path(item.curve.epoch, scaled, px, py) }));
  }
  const named = new Map(series.map((item) => [item.name, item.colour]));
  const entries = [...named].map(([name, colour]) => [name, colour, false]);
  if (ratio) entries.push(["CKF ratio r (right)", "soft", true]);
  return node("div", {}, svg, key(entries));
}

function meanCurve(curves) {
  const longest = curves.reduce((best, curve) => ((curve.epoch || []).length > (best.epoch || []).length ? curve : best), {});
  const mean = { epoch: longest.epoch || [] };
  for (const name of Object.keys(longest)) {
    if (name === "epoch") continue;
    mean[name] = mean.epoch.map((_, index) => {
      const values = curves.map((curve) => (curve[name] || [])[index]).filter((value) => value !== null && value !== undefined);
      return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
    });
  }
  return mean;
}

function costChart(data, column, quantity) {
  const found = data.methods
    .map((method, row) => ({ method, cell: data.cells[`${row}-${column}`], cost: method.cost[quantity] }))
    .filter((item) => item.cell && item.cost > 0);
  if (found.length < 2) return null;
  const what = data.pretraining_cost ? "pretraining" : "wall";
  const [write, name] = quantity === "time" ? [duration, `${what} time of one run`] : [(v) => `${Number(v.toPrecision(3))}`, `${what} GPU-hours of one run`];
  const bounds = found.flatMap(({ cell }) => (cell.sd === null ? [cell.mean] : [cell.mean - cell.sd, cell.mean + cell.sd])).map((v) => 100 * v);
  const xs = found.map((item) => item.cost);
  const high = Math.max(...xs) * 1.08;
  const setting = data.settings[column];
  const unit = quantity === "time" ? (high > 7200 ? 3600 : high > 120 ? 60 : 1) : 1;
  const suffix = quantity === "time" ? { 3600: ", h", 60: ", min", 1: ", s" }[unit] : "";
  const { svg, px, py } = frame({
    x: [0, high / unit], y: padded(bounds, 0.12), xName: name + suffix, yName: `${setting.metric}, %`,
    title: `${setting.task}, ${setting.column}: score against ${name}`, xText: (v) => `${Number(v.toPrecision(4))}`, yText: (v) => `${Number(v.toPrecision(5))}`,
  });
  for (const { method, cell, cost } of found) {
    const [x, y] = [px(cost / unit), py(100 * cell.mean)];
    const stroke = `var(--${method.colour})`;
    if (cell.sd !== null) svg.append(draw("line", { class: "line", stroke, x1: x, x2: x, y1: py(100 * (cell.mean - cell.sd)), y2: py(100 * (cell.mean + cell.sd)) }));
    svg.append(draw("circle", { cx: x, cy: y, r: 4.5, fill: stroke }, draw("title", {}, `${method.name}: ${percent(cell.mean)} %, ${write(cost)}`)));
  }
  const names = key(found.map(({ method }) => [method.name, method.colour, false]));
  names.classList.add("dots");
  return node("div", {}, svg, names);
}

const short = (text, room = 26) => (text.length > room ? `${text.slice(0, room - 1)}…` : text);

function figures(place) {
  const data = evidence(place.dataset.figures);
  const quantity = data.methods.some((method) => method.cost["GPU-hours"] > 0) ? "GPU-hours" : "time";
  const holder = node("div");
  const choose = node("select", { "aria-label": "Column of the figure", change: () => show(choose.value) },
    data.settings.map((setting, index) => node("option", { value: index }, `${setting.task}, ${setting.column}`)));
  const show = (column) => holder.replaceChildren(costChart(data, column, quantity) ?? node("p", { class: "soft" }, "No cost was recorded here."));
  if (data.settings.some((_, column) => costChart(data, column, quantity))) {
    show(0);
    place.append(node("figure", {}, node("figcaption", {}, node("b", {}, "Score against cost. "), "Bars: ± sd over seeds. ", choose), holder));
  }
  place.append(differenceFigure(data) ?? "");
  const curves = [];
  data.methods.forEach((method, row) => {
    const cells = data.settings.map((_, column) => data.cells[`${row}-${column}`]).filter(Boolean);
    const cell = cells.find((item) => item.records.some((record) => record.curve.epoch));
    const known = cell ? cell.records.map((record) => record.curve).filter((curve) => curve.epoch) : [];
    if (known.length) curves.push({ name: method.name, colour: method.colour, curve: meanCurve(known) });
  });
  if (data.group === "pretraining" && curves.length) place.append(curveFigure(curves, "mean over seeds"));
}

// rows: [[label, difference]]; an interval per row around the line of no difference.
function forestChart(rows) {
  const known = rows.filter(([, item]) => item.interval);
  if (!known.length) return null;
  const step = 22;
  const bounds = known.flatMap(([, item]) => item.interval).concat(0).map((value) => 100 * value);
  const [low, high] = padded(bounds, 0.05);
  const left = Math.min(216, 14 + 5.9 * Math.max(...known.map(([label]) => short(label, 34).length)));
  const x = (value) => left + ((value - low) / (high - low)) * (WIDTH - 10 - left);
  const height = known.length * step + 30;
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": "Paired differences in points with 95 % intervals" });
  for (const value of ticks(low, high, 6)) {
    svg.append(draw("line", { class: value === 0 ? "zero" : "grid", x1: x(value), x2: x(value), y1: 4, y2: height - 24 }));
    svg.append(draw("text", { x: x(value), y: height - 8, "text-anchor": "middle" }, `${value}`.replace("-", "−")));
  }
  known.forEach(([label, item], index) => {
    const y = 16 + index * step;
    const colour = item.mark === "↑" ? "var(--up)" : item.mark === "↓" ? "var(--down)" : "var(--soft)";
    svg.append(draw("text", { x: 0, y: y + 4 }, short(label, 34)));
    svg.append(draw("line", { class: "line", stroke: colour, x1: x(100 * item.interval[0]), x2: x(100 * item.interval[1]), y1: y, y2: y }));
    svg.append(draw("circle", { cx: x(100 * item.mean), cy: y, r: 4, fill: colour }, draw("title", {}, `${points(item.mean)}, ${between(item.interval, points)}`)));
  });
  return svg;
}

// Paired differences of one method and baseline over all columns of a table.
function differenceFigure(data) {
  const pairs = new Map();
  data.methods.forEach((method, row) => data.settings.forEach((setting, column) => {
    for (const item of data.cells[`${row}-${column}`]?.differences ?? []) {
      const name = `${method.name} − ${data.methods[item.row].name}`;
      if (!pairs.has(name)) pairs.set(name, { plain: method.name === "cskd", rows: [] });
      pairs.get(name).rows.push([`${setting.task}, ${setting.column}`, item]);
    }
  }));
  const names = [...pairs.keys()].filter((name) => pairs.get(name).rows.filter(([, item]) => item.interval).length > 1);
  if (!names.length) return null;
  const first = names.filter((name) => pairs.get(name).plain).pop() ?? names[names.length - 1];
  const holder = node("div");
  const show = (name) => holder.replaceChildren(forestChart(pairs.get(name).rows));
  const choose = node("select", { "aria-label": "Pair of the figure", change: () => show(choose.value) },
    names.map((name) => node("option", { value: name, selected: name === first ? "" : null }, name)));
  show(first);
  return node("figure", {}, node("figcaption", {}, node("b", {}, "Paired differences. "), "Points, 95 % intervals, coloured where they hold after Holm. ", choose), holder);
}

function curveFigure(curves, note) {
  const quantities = [...new Set(curves.flatMap((item) => Object.keys(item.curve)))].filter((name) => !["epoch", "fusion_ratio"].includes(name));
  const first = ["ema_top1", "top1", ...quantities].find((name) => quantities.includes(name));
  const holder = node("div");
  const show = (name) => holder.replaceChildren(learningCurves(curves, name, `${CURVE_NAMES[name] || name} by epoch`));
  const choose = node("select", { "aria-label": "Quantity of the learning curves", change: () => show(choose.value) },
    quantities.map((name) => node("option", { value: name, selected: name === first ? "" : null }, CURVE_NAMES[name] || name)));
  show(first);
  return node("figure", {}, node("figcaption", {}, node("b", {}, "Learning curves. "), `${note}. `, choose), holder);
}

// ---------------------------------------------------------------- evidence of one cell

function openEvidence(name) {
  const [table, row, column] = name.split("-");
  const data = evidence(table);
  const cell = data.cells[`${row}-${column}`];
  const method = data.methods[row];
  const setting = data.settings[column];
  const dialog = $("#evidence");
  const children = [
    node("header", {},
      node("div", {},
        node("h2", { id: "evidence-title" }, `${method.name} on ${setting.task}, ${setting.column}`),
        node("p", { class: "soft" }, data.title)),
      node("button", { class: "close", type: "button", "aria-label": "Close", click: () => dialog.close() }, "×")),
    summary(cell, setting),
    differences(data, cell, column),
    records(cell),
    curves(cell, method),
    calibration(cell, method),
    classes(data, cell, row, column),
    pictures(cell),
    configuration(cell, setting),
  ];
  $(".sheet", dialog).replaceChildren(...children.filter(Boolean));
  dialog.showModal();
  dialog.scrollTop = 0;
}

function summary(cell, setting) {
  const seeds = new Set(cell.records.map((record) => record.pretrain_seed ?? record.seed)).size;
  const facts = [["metric", `${setting.metric} in percent`], ["seeds", `${seeds}, ${cell.records.length} ${cell.records.length === 1 ? "record" : "records"}`]];
  if (cell.interval) facts.push(["95 % interval", `${between(cell.interval, percent)} (over ${cell.covers})`]);
  if (cell.bootstrap) facts.push(["bootstrap", `${between(cell.bootstrap, percent)} (seeds and test images resampled; too narrow for few seeds)`]);
  return node("div", {},
    node("p", { class: "big" }, percent(cell.mean), cell.sd === null ? null : node("small", {}, ` ± ${percent(cell.sd)}`)),
    node("dl", { class: "plain" }, facts.flatMap(([term, text]) => [node("dt", {}, term), node("dd", {}, text)])));
}

function grid(heads, rows, leftColumns = []) {
  const side = (index) => (leftColumns.includes(index) ? "left" : null);
  return node("div", { class: "scroll", tabindex: "0" }, node("table", {},
    node("thead", {}, node("tr", {}, heads.map((head, index) => node("th", { scope: "col", class: side(index) }, head)))),
    node("tbody", {}, rows.map((row) => node("tr", {}, row.map((text, index) => node("td", { class: side(index) }, text)))))));
}

function differences(data, cell) {
  if (!cell.differences.length) return null;
  const rows = cell.differences.map((item) => [
    `− ${data.methods[item.row].name}`, `${item.mark} ${points(item.mean)}`, between(item.interval, points), pValue(item.p), pValue(item.holm),
    between(item.bootstrap, points), item.detectable === null ? "–" : percent(item.detectable, 1), `${item.seeds}`,
  ]);
  const pairs = cell.differences.map((item) => node("details", {},
    node("summary", {}, `Each seed against ${data.methods[item.row].name}`),
    grid(["seed", "difference", "only this right", "only baseline right", "exact McNemar p"],
      item.pairs.map(([seed, difference, ours, theirs, p]) => [`${seed}`, points(difference), ours === null ? "–" : `${ours}`, theirs === null ? "–" : `${theirs}`, pValue(p)]))));
  return node("section", {}, node("h3", {}, "Paired differences, in points"), node("div", { class: "forest" }, forest(data, cell) ?? ""),
    grid(["", "difference", "95 % interval", "p", "p, Holm", "bootstrap", "detectable", "seeds"], rows),
    node("p", { class: "soft" }, `Interval and p over ${cell.differences[0].covers}. “?” cannot be tested: one seed, or no spread.`), pairs);
}

function forest(data, cell) {
  return forestChart(cell.differences.map((item) => [`− ${data.methods[item.row].name}`, item]));
}

function records(cell) {
  const rows = cell.records.map((record) => node("details", {},
    node("summary", {}, `seed ${record.seed}${record.pretrain_seed !== null && record.pretrain_seed !== record.seed ? `, pretrained with ${record.pretrain_seed}` : ""}: ${percent(record.value)} %, ${record.created.slice(0, 10)}, ${record.commit.slice(0, 8)}${record.dirty ? " with uncommitted changes" : ""}`),
    node("dl", { class: "plain" }, Object.entries({
      record: record.id, created: record.created, commit: record.commit + (record.dirty ? ", uncommitted changes" : ""), release: record.version, device: record.device,
      time: duration(record.cost[0]), speed: record.cost[1] ? `${record.cost[1].toFixed(0)} images/s` : "", "GPU-hours": record.cost[2] ? record.cost[2].toFixed(3) : "",
      "peak memory": record.cost[3] ? memory(record.cost[3]) : "", checkpoint: record.run + (record.weights === "none" ? "" : `, ${record.weights} weights`), "SHA-256": record.sha256,
      parameters: record.parameters.toLocaleString("en"), examples: record.examples.toLocaleString("en"),
      metrics: Object.entries(record.metrics).map(([name, value]) => `${name} ${Number(value.toPrecision(5))}`).join(", "), note: record.note,
    }).filter(([, text]) => text).flatMap(([term, text]) => [node("dt", {}, term), node("dd", {}, text)])),
    copyable(record.command),
    record.changed.map(([name, index]) => [node("p", { class: "soft" }, `${name}, unlike the first record`), node("pre", {}, shared(index))]),
    node("details", {}, node("summary", {}, "Package versions"), node("pre", {}, shared(record.versions)))));
  return node("section", {}, node("h3", {}, "Records"), rows);
}

function copyable(text) {
  const button = node("button", { class: "copy", type: "button", click: async () => {
    try { await navigator.clipboard.writeText(text); button.textContent = "copied"; } catch { button.textContent = "select and copy"; }
  } }, "copy");
  return node("pre", {}, button, text);
}

function curves(cell, method) {
  const spare = [method.colour, "soft", "more1", "more2", "more3", "more4"];
  const known = cell.records.filter((record) => record.curve.epoch).map((record, index) => ({ name: `seed ${record.seed}`, colour: spare[index % spare.length], curve: record.curve }));
  return known.length ? node("section", {}, node("h3", {}, "Curves"), node("div", { class: "two" }, curveFigure(known.slice(0, 12), "one line per record"))) : null;
}

function calibration(cell, method) {
  if (!cell.calibration) return null;
  const { svg, px, py } = frame({ x: [0, 1], y: [0, 1], xName: "confidence", yName: "accuracy", title: "Reliability diagram" });
  svg.append(draw("line", { class: "axis", x1: px(0), x2: px(1), y1: py(0), y2: py(1), "stroke-dasharray": "2 4" }));
  const most = Math.max(...cell.calibration.bins.map(([share]) => share));
  for (const [share, confidence, accuracy] of cell.calibration.bins) {
    svg.append(draw("line", { class: "line", stroke: `var(--${method.colour})`, opacity: 0.4, x1: px(confidence), x2: px(confidence), y1: py(confidence), y2: py(accuracy) }));
    svg.append(draw("circle", { cx: px(confidence), cy: py(accuracy), r: 2 + 6 * Math.sqrt(share / most), fill: `var(--${method.colour})` },
      draw("title", {}, `confidence ${confidence}, accuracy ${accuracy}, ${percent(share, 1)} % of images`)));
  }
  return node("section", {}, node("h3", {}, "Calibration"), node("div", { class: "two" }, node("figure", {},
    node("figcaption", {}, `Expected calibration error ${percent(cell.calibration.error)} %, 15 bins; a point’s area is its share of the images.`), svg)));
}

function classes(data, cell, row, column) {
  const rivals = cell.differences.map((item) => item.row).filter((other) => (data.cells[`${other}-${column}`]?.classes || []).length === cell.classes.length && cell.classes.length);
  if (!rivals.length) return null;
  const holder = node("div");
  const show = (other) => {
    const theirs = data.cells[`${other}-${column}`].classes;
    const found = cell.classes.map((value, index) => [index, value === null || theirs[index] === null ? null : value - theirs[index]]).filter(([, gap]) => gap !== null).sort((a, b) => b[1] - a[1]);
    const shown = found.length > 16 ? [...found.slice(0, 8), ...found.slice(-8)] : found;
    const most = Math.max(0.001, ...shown.map(([, gap]) => Math.abs(gap)));
    const svg = draw("svg", { viewBox: `0 0 460 ${shown.length * 18 + 6}`, role: "img", "aria-label": "Per-class differences" });
    svg.append(draw("line", { class: "zero", x1: 255, x2: 255, y1: 0, y2: shown.length * 18 }));
    shown.forEach(([index, gap], at) => {
      const width = (Math.abs(gap) / most) * 140;
      svg.append(draw("text", { x: 0, y: at * 18 + 13 }, `class ${index}`));
      svg.append(draw("rect", { x: gap < 0 ? 255 - width : 255, y: at * 18 + 4, width, height: 11, fill: gap < 0 ? "var(--down)" : "var(--up)" }));
      svg.append(draw("text", { x: 458, y: at * 18 + 13, "text-anchor": "end" }, points(gap, 1)));
    });
    holder.replaceChildren(svg);
  };
  const choose = node("select", { "aria-label": "Baseline of the per-class differences", change: () => show(choose.value) },
    rivals.map((other) => node("option", { value: other, selected: other === rivals[rivals.length - 1] ? "" : null }, data.methods[other].name)));
  show(rivals[rivals.length - 1]);
  const count = cell.classes.length > 16 ? "the eight largest gains and losses" : "every class";
  return node("section", {}, node("h3", {}, "Classes"), node("div", { class: "two" }, node("figure", {}, node("figcaption", {}, `Accuracy per class in points, ${count}, minus `, choose), holder)));
}

function pictures(cell) {
  if (!cell.pictures.length) return null;
  return node("section", {}, node("h3", {}, "Pictures"), node("div", { class: "pictures" }, cell.pictures.map((picture) =>
    node("figure", {}, node("img", { src: picture.source, alt: picture.name, loading: "lazy" }), node("figcaption", {}, picture.name)))));
}

function configuration(cell, setting) {
  return node("section", {}, node("h3", {}, "Configuration"),
    node("dl", { class: "plain" }, [["task", `${setting.task} version ${setting.version}, content ${setting.fingerprint}`], ["recipe", setting.recipe], ["input", `${setting.image_size} px`]]
      .flatMap(([term, text]) => [node("dt", {}, term), node("dd", {}, text)])),
    cell.config.map(([name, index]) => node("details", {}, node("summary", {}, name), node("pre", {}, shared(index)))));
}

// ---------------------------------------------------------------- wiring

document.addEventListener("click", (event) => {
  const cell = event.target.closest(".cell");
  if (cell) openEvidence(cell.dataset.cell);
  const header = event.target.closest("thead button");
  if (header) sortBy(header.closest("th"));
  const menu = $(".menu[open]");
  if (menu && !menu.contains(event.target)) menu.open = false;
  if (event.target.id === "evidence") event.target.close();
});
document.addEventListener("keydown", (event) => {
  const menu = $(".menu[open]");
  if (event.key === "Escape" && menu) { menu.open = false; $("summary", menu).focus(); }
});
$("#filter").addEventListener("input", applyFilter);
$(".controls").addEventListener("submit", (event) => event.preventDefault());
$$("input[name=method]").forEach((box) => box.addEventListener("change", applyFilter));
$$("input[name=baseline]").forEach((radio) => radio.addEventListener("change", () => chooseBaseline(radio.value)));

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    const place = $(".figures", entry.target);
    if (!place.hasChildNodes()) figures(place);
  }
}, { rootMargin: "300px" });
$$("article.table").forEach((article) => seen.observe(article));
addEventListener("beforeprint", () => $$(".figures:empty").forEach(figures));
