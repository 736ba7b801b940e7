// ---------------------------------------------------------------- wiring

document.addEventListener("click", (event) => {
  const cell = event.target.closest(".cell");
  if (cell) openEvidence(cell);
  const contrast = event.target.closest(".contrast");
  if (contrast) openContrast(contrast.dataset.primary);
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
    figures(entry.target);
  }
}, { rootMargin: "300px" });
$$(".figures").forEach((place) => seen.observe(place)); // what is folded comes into view when it is unfolded
addEventListener("beforeprint", () => $$(".figures").forEach(figures));

// Small pages unpack everything while nobody waits, so that printing finds its figures.
const SMALL = 4e6;
const all = $$("script[data-evidence]");
if (all.reduce((sum, element) => sum + element.textContent.length, 0) < SMALL) {
  (window.requestIdleCallback ?? setTimeout)(() => all.forEach(unpack));
}

// ---------------------------------------------------------------- links

// The fragment names a table, the evidence of a cell or a primary contrast.
function openFragment() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const button = target && $(".cell, .contrast", target);
  if (!button || !/^#[cp]-/.test(location.hash)) return;
  for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  target.scrollIntoView({ block: "center", behavior: "instant" });
  button.click();
}
addEventListener("hashchange", openFragment);
openFragment();

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-link]");
  if (!button) return;
  const link = `${location.href.split("#")[0]}#${button.dataset.link}`;
  try {
    await navigator.clipboard.writeText(link);
    button.textContent = "copied";
  } catch {
    button.replaceWith(node("input", { class: "address", readonly: "", value: link, "aria-label": "Link", focus: (focus) => focus.target.select() }));
  }
});
