// ---------------------------------------------------------------- charts, as SVG

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

// Epochs without a value (not every epoch is evaluated) are passed over; a single value is a dot.
function path(xs, ys, px, py) {
  const known = xs.map((x, index) => [x, ys[index] ?? null]).filter(([x, y]) => x !== null && y !== null);
  const points = known.map(([x, y]) => `${px(x).toFixed(1)} ${py(y).toFixed(1)}`);
  return points.length === 1 ? `M${points[0]}h0.01` : points.length ? `M${points.join("L")}` : "";
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
  spatial_agreement: "agreement with fused labels", patch_top1: "patches naming the label",
  attention_distance: "attention distance, px",
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

// Fill a place for figures, at once where its data are unpacked already (printing does not wait).
function figures(place) {
  if (place.classList.contains("drawn")) return;
  const data = unpacked.get(packedTable(place.dataset.figures));
  if (!data) {
    evidence(place.dataset.figures).then(() => figures(place));
    return;
  }
  place.classList.add("drawn");
  if (place.dataset.kind === "differences") place.append(differenceFigure(data) ?? "");
  else place.append(costFigure(data) ?? "", trainingFigure(data) ?? "");
}

function costFigure(data) {
  const quantity = data.methods.some((method) => method.cost["GPU-hours"] > 0) ? "GPU-hours" : "time";
  if (!data.settings.some((_, column) => costChart(data, column, quantity))) return null;
  const holder = node("div");
  const choose = node("select", { "aria-label": "Column of the figure", change: () => show(choose.value) },
    data.settings.map((setting, index) => node("option", { value: index }, `${setting.task}, ${setting.column}`)));
  const show = (column) => holder.replaceChildren(costChart(data, column, quantity) ?? node("p", { class: "soft" }, "No cost was recorded here."));
  show(0);
  return node("figure", {}, node("figcaption", {}, node("b", {}, "Score against cost. "), "Bars: ± sd over seeds. ", choose), holder);
}

function trainingFigure(data) {
  if (data.group !== "pretraining") return null;
  const curves = [];
  data.methods.forEach((method, row) => {
    const cells = data.settings.map((_, column) => data.cells[`${row}-${column}`]).filter(Boolean);
    const cell = cells.find((item) => item.records.some((record) => record.curve.epoch));
    const known = cell ? cell.records.map((record) => record.curve).filter((curve) => curve.epoch) : [];
    if (known.length) curves.push({ name: method.name, colour: method.colour, curve: meanCurve(known) });
  });
  return curves.length ? curveFigure(curves, "mean over seeds", data.settings[0].curve) : null;
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

const EXPLAINED = "Points, 95 % intervals, coloured where they are shown. ";
// Paired differences of one method and what it is compared with, over all columns of a table.
function differenceFigure(data) {
  const pairs = new Map();
  data.methods.forEach((method, row) => data.settings.forEach((setting, column) => {
    for (const item of data.cells[`${row}-${column}`]?.differences ?? []) {
      const name = `${method.name} − ${data.methods[item.row].name}`;
      if (!pairs.has(name)) pairs.set(name, { plain: method.name === "cskd" && data.methods[item.row].kind !== "cskd", rows: [] });
      pairs.get(name).rows.push([`${setting.task}, ${setting.column}`, item]);
    }
  }));
  const names = [...pairs.keys()].filter((name) => pairs.get(name).rows.filter(([, item]) => item.interval).length > 1);
  if (!names.length) {
    const chart = forestChart([...pairs].flatMap(([name, { rows }]) => rows.map(([, item]) => [name, item])));
    return chart && node("figure", {}, node("figcaption", {}, node("b", {}, "Paired differences. "), EXPLAINED), chart);
  }
  const first = names.filter((name) => pairs.get(name).plain).pop() ?? names[names.length - 1];
  const holder = node("div");
  const show = (name) => holder.replaceChildren(forestChart(pairs.get(name).rows));
  const choose = node("select", { "aria-label": "Pair of the figure", change: () => show(choose.value) },
    names.map((name) => node("option", { value: name, selected: name === first ? "" : null }, name)));
  show(first);
  return node("figure", {}, node("figcaption", {}, node("b", {}, "Paired differences. "), EXPLAINED, choose), holder);
}

// `scored`: the curve of what the table scores, which is drawn first where it was recorded.
function curveFigure(curves, note, scored) {
  const quantities = [...new Set(curves.flatMap((item) => Object.keys(item.curve)))].filter((name) => !["epoch", "fusion_ratio"].includes(name));
  const drawn = (name) => curves.some((item) => (item.curve[name] || []).filter((value) => value !== null).length > 1);
  const first = [scored, "top1", "total", ...quantities].find((name) => quantities.includes(name) && drawn(name)) ?? quantities[0];
  const holder = node("div");
  const show = (name) => holder.replaceChildren(learningCurves(curves, name, `${CURVE_NAMES[name] || name} by epoch`));
  const choose = node("select", { "aria-label": "Quantity of the learning curves", change: () => show(choose.value) },
    quantities.map((name) => node("option", { value: name, selected: name === first ? "" : null }, CURVE_NAMES[name] || name)));
  show(first);
  return node("figure", {}, node("figcaption", {}, node("b", {}, "Learning curves. "), `${note}. `, choose), holder);
}
