// ---------------------------------------------------------------- evidence of one cell

async function openEvidence(button) {
  const [table, row, column] = button.dataset.cell.split("-");
  const data = await evidence(table);
  const cell = data.cells[`${row}-${column}`];
  const method = data.methods[row];
  const setting = data.settings[column];
  showDialog(button.closest("[id]").id, `${method.name} on ${setting.task}, ${setting.column}`, data.title, [
    summary(cell, setting),
    differences(data, cell, column),
    records(cell),
    curves(cell, method, setting),
    calibration(cell, method),
    classes(data, cell, row, column),
    pictures(cell),
    configuration(cell, setting),
    ...changes(data, cell, row, column),
  ]);
}

async function openContrast(anchor) {
  const contrast = (await unpack($("#shared"))).primary.find((item) => item.anchor === anchor);
  const [name, where] = contrast.facts.map(([, text]) => text);
  showDialog(anchor, name, `${contrast.family} contrast, ${where}`, [
    node("p", {}, node("b", { "data-answer": contrast.kind }, contrast.verdict), ` ${contrast.told}`),
    node("dl", { class: "plain" }, contrast.facts.flatMap(([term, text]) => [node("dt", {}, term), node("dd", {}, text)])),
  ]);
}

function showDialog(anchor, title, subtitle, children) {
  const dialog = $("#evidence");
  $(".sheet", dialog).replaceChildren(
    node("header", {},
      node("div", {}, node("h2", { id: "evidence-title" }, title), node("p", { class: "soft" }, subtitle)),
      node("div", { class: "buttons" },
        node("button", { class: "link", type: "button", "data-link": anchor, "aria-label": "Copy a link to this evidence" }, "link"),
        node("button", { class: "close", type: "button", "aria-label": "Close", click: () => dialog.close() }, "×"))),
    ...children.filter(Boolean));
  if (!dialog.open) dialog.showModal();
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
    `− ${data.methods[item.row].name}`, `${shownMark(item.mark)} ${points(item.mean)}`, between(item.interval, points), between(item.simultaneous, points), pValue(item.p), pValue(item.holm),
    between(item.bootstrap, points), item.detectable === null ? "–" : percent(item.detectable, 1), `${item.seeds}`,
  ]);
  const pairs = cell.differences.map((item) => node("details", {},
    node("summary", {}, `Each seed against ${data.methods[item.row].name}`),
    grid(["seed", "difference", "only this right", "only baseline right", "exact McNemar p"],
      item.pairs.map(([seed, difference, ours, theirs, p]) => [`${seed}`, points(difference), ours === null ? "–" : `${ours}`, theirs === null ? "–" : `${theirs}`, pValue(p)]))));
  return node("section", {}, node("h3", {}, "Paired differences, in points"), node("div", { class: "intervals" }, forest(data, cell) ?? ""),
    grid(["", "difference", "95 % interval", "simultaneous", "p", "p, corrected", "bootstrap", "detectable", "seeds"], rows),
    node("p", { class: "soft" }, `Interval and p over ${cell.differences[0].covers}. “?” cannot be tested: one seed, no spread, or a plan that waits for its seeds.`), pairs);
}

function forest(data, cell) {
  return forestChart(cell.differences.map((item) => [`− ${data.methods[item.row].name}`, item]));
}

function records(cell) {
  const rows = cell.records.map((record) => node("details", {},
    node("summary", {}, `seed ${record.seed}${record.pretrain_seed !== null && record.pretrain_seed !== record.seed ? `, pretrained with ${record.pretrain_seed}` : ""}: ${percent(record.value)} %, ${record.created.slice(0, 10)}, ${record.commit ? record.commit.slice(0, 8) + (record.dirty ? " with uncommitted changes" : "") : "code not known"}`),
    node("dl", { class: "plain" }, Object.entries({
      record: record.id, created: record.created, commit: record.commit ? record.commit + (record.dirty ? ", uncommitted changes" : "") : "not known", release: record.version, device: record.device,
      time: duration(record.cost[0]), speed: record.cost[1] ? `${record.cost[1].toFixed(0)} images/s` : "", "GPU-hours": record.cost[2] ? record.cost[2].toFixed(3) : "",
      "peak memory": record.cost[3] ? memory(record.cost[3]) : "", checkpoint: record.run + (record.weights === "none" ? "" : `, ${record.weights} weights`), "SHA-256": record.sha256,
      parameters: record.parameters.toLocaleString("en"), examples: record.examples.toLocaleString("en"),
      metrics: Object.entries(record.metrics).map(([name, value]) => `${name} ${Number(value.toPrecision(5))}`).join(", "), note: record.note,
    }).filter(([, text]) => text).flatMap(([term, text]) => [node("dt", {}, term), node("dd", {}, text)])),
    copyable(record.command),
    record.weights === "raw" ? copyable(`cskd-bench records rerun ${record.id}`) : null,
    record.changed.flatMap(([name, index]) => [node("p", { class: "soft" }, `${name}, unlike the first record`), node("pre", {}, shared(index))]),
    node("details", {}, node("summary", {}, "Package versions"), node("pre", {}, shared(record.versions)))));
  return node("section", {}, node("h3", {}, "Records"), rows);
}

function copyable(text) {
  const button = node("button", { class: "copy", type: "button", click: async () => {
    try { await navigator.clipboard.writeText(text); button.textContent = "copied"; } catch { button.textContent = "select and copy"; }
  } }, "copy");
  return node("pre", {}, button, text);
}

function curves(cell, method, setting) {
  const spare = [method.colour, "soft", "more1", "more2", "more3", "more4"];
  const known = cell.records.filter((record) => record.curve.epoch).map((record, index) => ({ name: `seed ${record.seed}`, colour: spare[index % spare.length], curve: record.curve }));
  return known.length ? node("section", {}, node("h3", {}, "Curves"), node("div", { class: "two" }, curveFigure(known.slice(0, 12), "one line per record", setting.curve))) : null;
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

// The settings by which the first record of a cell differs from that of what the cell is compared with.
function changes(data, cell, row, column) {
  const ours = settingsOf(data, cell, row);
  return cell.differences.map((item) => {
    const other = data.cells[`${item.row}-${column}`];
    const theirs = settingsOf(data, other, item.row);
    const keys = [...new Set([...ours.keys(), ...theirs.keys()])].filter((name) => ours.get(name) !== theirs.get(name));
    const name = data.methods[item.row].name;
    return node("details", { class: "changes" }, node("summary", {}, `Differs from ${name} in ${keys.length} ${keys.length === 1 ? "setting" : "settings"}`),
      grid(["setting", data.methods[row].name, name], keys.sort().map((key) => [key, ours.get(key) ?? "–", theirs.get(key) ?? "–"]), [1, 2]));
  });
}

const ITS_OWN = new Set(["name", "seed", "run"]); // of every run, whatever it is compared with
function settingsOf(data, cell, row) {
  const found = new Map([["teacher as used", data.methods[row].teacher || "none"]]);
  const add = (value, name) => {
    if (value !== null && typeof value === "object" && !Array.isArray(value)) {
      for (const [key, inner] of Object.entries(value)) add(inner, `${name}.${key}`);
    } else found.set(name, JSON.stringify(value));
  };
  for (const [name, index] of cell.config) {
    if (ITS_OWN.has(name)) continue;
    try {
      add(JSON.parse(shared(index)), name);
    } catch {
      found.set(name, shared(index));
    }
  }
  return found;
}
