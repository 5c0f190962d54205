// Connects the controls, the keys and the themes.

const THEMES = ["system", "light", "dark"];
const helpDialog = byId("help");

function applyTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme-name").textContent = theme;
  try { localStorage.setItem("wsss-report-theme", theme); } catch { /* a page from a file may not store anything */ }
}

function readTheme() {
  try { return localStorage.getItem("wsss-report-theme"); } catch { return null; }
}

byId("theme").addEventListener("click", () =>
  applyTheme(THEMES[(THEMES.indexOf(byId("theme-name").textContent) + 1) % THEMES.length]));
byId("show-help").addEventListener("click", () => helpDialog.showModal());

fillControls();
controls.addEventListener("submit", event => event.preventDefault());
byId("search").addEventListener("input", updateGallery);
for (const id of ["class-filter", "tag-filter", "sort", "reverse", "view"]) byId(id).addEventListener("change", updateGallery);
byId("layer").addEventListener("change", redrawThumbnails);
byId("more").addEventListener("click", () => focusCard(gallery.numCards));
byId("opacity").addEventListener("input", redrawThumbnails);

byId("layer-a").addEventListener("change", event => { view.a = Number(event.target.value); updateLayers(); });
byId("layer-b").addEventListener("change", event => { view.b = Number(event.target.value); updateLayers(); });
byId("swap").addEventListener("click", swapLayers);
for (const id of ["divider", "large-opacity"]) byId(id).addEventListener("input", drawView);
byId("threshold").addEventListener("input", loadView);
byId("previous").addEventListener("click", () => showImage(view.position - 1));
byId("next").addEventListener("click", () => showImage(view.position + 1));
byId("close").addEventListener("click", () => viewer.close());
byId("zoom-in").addEventListener("click", () => zoomAtCentre(1.5));
byId("zoom-out").addEventListener("click", () => zoomAtCentre(1 / 1.5));
byId("zoom-reset").addEventListener("click", () => zoomAtCentre(0));
viewer.addEventListener("close", () => {
  history.replaceState(null, "", location.pathname + location.search);
  focusCard(view.position);
});

function isTyping(target) {
  return target.matches("input:not([type=checkbox]), select, textarea");
}

function handleViewerKey(event) {
  const keys = {
    ArrowLeft: () => showImage(view.position - 1), ArrowRight: () => showImage(view.position + 1),
    ArrowUp: () => chooseLayerB(view.b - 1), ArrowDown: () => chooseLayerB(view.b + 1),
    "+": () => zoomAtCentre(1.5), "=": () => zoomAtCentre(1.5), "-": () => zoomAtCentre(1 / 1.5),
    0: () => zoomAtCentre(0), x: swapLayers, "[": () => stepDivider(-5), "]": () => stepDivider(5),
  };
  if (/^[1-9]$/.test(event.key)) chooseLayerB(Number(event.key) - 2);
  else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
}

function stepDivider(step) {
  byId("divider").value = Number(byId("divider").value) + step;
  drawView();
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || helpDialog.open) return;
  const typing = isTyping(event.target);
  if (event.key === "?" && !typing) {
    helpDialog.showModal();
    event.preventDefault();
  } else if (viewer.open) {
    if (!typing) handleViewerKey(event);
  } else if (event.key === "/" && !typing) {
    byId("search").focus();
    event.preventDefault();
  } else if (event.key === "Escape" && event.target === byId("search")) {
    byId("search").value = "";
    updateGallery();
  } else if (event.key.startsWith("Arrow") && !typing && moveFocus(event.key)) {
    event.preventDefault();
  }
});

applyTheme(THEMES.includes(readTheme()) ? readTheme() : "system");
updateGallery();
const linked = /^#image=(.+)$/.exec(location.hash);
if (linked) {
  const position = gallery.shown.findIndex(image => image.id === decodeURIComponent(linked[1]));
  if (position >= 0) openViewer(position);
}
