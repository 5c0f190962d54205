// One image large, with layer A left of a divider and layer B right of it.

const viewer = byId("viewer"), stage = byId("stage"), picture = byId("picture");
const view = { position: 0, a: PHOTOGRAPH, b: PHOTOGRAPH, hidden: new Set(), zoom: 1, x: 0, y: 0, panels: null };
const pointers = new Map();
const MAX_ZOOM = 16;

function currentImage() {
  return gallery.shown[view.position];
}

// Opens an image with a layer on the right, and on the left the ground truth if there is any, else the photograph.
function openViewer(position, layer = Number(byId("layer").value)) {
  if (!viewer.open) {
    const truth = data.layers.findIndex(candidate => candidate.kind === "truth");
    view.b = layer;
    view.a = truth === layer ? PHOTOGRAPH : truth;
    byId("large-opacity").value = byId("opacity").value;
    viewer.showModal();
  }
  showImage(position);
}

function showImage(position) {
  view.position = Math.min(gallery.shown.length - 1, Math.max(0, position));
  view.hidden = new Set();
  Object.assign(view, { zoom: 1, x: 0, y: 0 });
  const image = currentImage();
  byId("viewer-title").textContent = image.id;
  byId("viewer-position").textContent = `${view.position + 1} of ${gallery.shown.length}`;
  byId("previous").disabled = view.position === 0;
  byId("next").disabled = view.position === gallery.shown.length - 1;
  fillFacts(image);
  updateLayers();
  history.replaceState(null, "", `#image=${encodeURIComponent(image.id)}`);
}

function fillFacts(image) {
  const facts = [["Tags", listTags(image)]];
  if (image.full) facts.push(["Size", `${image.full[1]} × ${image.full[0]} pixels`]);
  for (const run of data.scored) facts.push([`IoU of ${data.runs[run]}`, `${formatPercent(image.iou[run])} %`]);
  data.pairs.forEach(([a, b], index) => facts.push(
    [`Disagreement of ${data.runs[a]} and ${data.runs[b]}`, `${formatPercent(image.dis[index])} %`]));
  if (image.score !== null) facts.push(["Score of the best class", image.score.toFixed(3)]);
  if (image.note) facts.push(["Not scored", image.note]);
  byId("facts").replaceChildren(...facts.flatMap(([name, value]) => [
    build("dt", { dir: "auto" }, name), build("dd", { dir: "auto" }, value)]));
}

// Lists the classes of both layers with their colours and, for CAMs, their scores; a pressed chip is shown.
function fillChips() {
  const scores = new Map(), ids = new Set(), item = readItem(currentImage());
  let numMore = 0;
  for (const layer of [view.a, view.b]) {
    const encoded = layer === PHOTOGRAPH ? {} : item.l[layer];
    numMore += encoded.more || 0;
    (encoded.c || []).forEach((id, row) => {
      if (id === 0) return;
      ids.add(id);
      if (encoded.s && encoded.s[row] !== null) scores.set(id, encoded.s[row]);
    });
  }
  const chips = [...ids].sort((a, b) => (a < 0) - (b < 0) || a - b).map(id => buildChip(id, scores.get(id)));
  byId("chip-list").replaceChildren(...chips, ...(numMore ? [` and ${numMore} more with lower CAMs`] : []));
  byId("chips").hidden = !chips.length;
}

function buildChip(id, score) {
  const name = id === IGNORED ? "ignored" : id === OTHER ? "other classes" : data.classes[id].name;
  const colour = id < 0 ? "#e1e1c8" : data.classes[id].colour;
  const chip = build("button", { type: "button", class: "chip", "aria-pressed": String(!view.hidden.has(id)) },
    build("span", { class: "swatch", style: `background:${colour}` }), build("span", { dir: "auto" }, name),
    score === undefined ? "" : build("span", { class: "chip-score" }, score.toFixed(2)));
  chip.addEventListener("click", () => {
    if (!view.hidden.delete(id)) view.hidden.add(id);
    chip.setAttribute("aria-pressed", String(!view.hidden.has(id)));
    loadView();
  });
  return chip;
}

function updateLayers() {
  byId("layer-a").value = view.a;
  byId("layer-b").value = view.b;
  byId("name-a").textContent = nameLayer(view.a);
  byId("name-b").textContent = nameLayer(view.b);
  byId("threshold-label").hidden = ![view.a, view.b].some(layer => data.layers[layer]?.kind === "cams");
  fillChips();
  return loadView();
}

async function loadView() {
  const request = view.request = {}, image = currentImage();
  const options = { hidden: view.hidden, threshold: Number(byId("threshold").value) };
  byId("threshold-value").textContent = `${options.threshold} %`;
  const panels = await Promise.all([view.a, view.b].map(layer => loadPanel(image, layer, options)));
  if (view.request !== request) return;
  view.panels = panels;
  const messages = panels.map(panel => panel.message).filter(Boolean);
  picture.setAttribute("aria-label", `${image.id}, ${listTags(image)}. Left of the divider: ${nameLayer(view.a)}; ` +
    `right of it: ${nameLayer(view.b)}. ${[...new Set(messages)].join(". ")}`);
  byId("name-a").textContent = nameLayer(view.a) + (panels[0].message ? `: ${panels[0].message}` : "");
  byId("name-b").textContent = nameLayer(view.b) + (panels[1].message ? `: ${panels[1].message}` : "");
  drawView();
}

// The rectangle of the image in the stage, in CSS pixels, without zoom.
function fitImage() {
  const image = currentImage(), box = stage.getBoundingClientRect();
  const scale = Math.min(box.width / image.w, box.height / image.h);
  return { width: image.w * scale, height: image.h * scale, left: (box.width - image.w * scale) / 2,
    top: (box.height - image.h * scale) / 2, box };
}

function drawView() {
  if (!view.panels || !viewer.open) return;
  const { width, height, left, top, box } = fitImage(), ratio = window.devicePixelRatio || 1;
  picture.width = Math.round(box.width * ratio);
  picture.height = Math.round(box.height * ratio);
  const context = picture.getContext("2d"), opacity = Number(byId("large-opacity").value) / 100;
  byId("large-opacity-value").textContent = `${byId("large-opacity").value} %`;
  byId("zoom-value").textContent = `${Math.round(view.zoom * 100)} %`;
  const divider = (left + width * Number(byId("divider").value) / 100) * ratio;
  view.panels.forEach((panel, side) => {
    context.save();
    context.beginPath();
    context.rect(side ? divider : 0, 0, side ? picture.width - divider : divider, picture.height);
    context.clip();
    context.setTransform(ratio * view.zoom, 0, 0, ratio * view.zoom, ratio * (left + view.x), ratio * (top + view.y));
    drawPanel(context, panel, width, height, opacity);
    context.restore();
  });
  drawDivider(context, divider, ratio);
}

function drawDivider(context, divider, ratio) {
  context.fillStyle = "#000";
  context.fillRect(divider - 2 * ratio, 0, 4 * ratio, picture.height);
  context.fillStyle = "#fff";
  context.fillRect(divider - ratio, 0, 2 * ratio, picture.height);
  context.beginPath();
  context.arc(divider, picture.height / 2, 11 * ratio, 0, 2 * Math.PI);
  context.fill();
  context.lineWidth = ratio;
  context.stroke();
}

function zoomAt(factor, x, y) {
  const { left, top } = fitImage(), zoom = Math.min(MAX_ZOOM, Math.max(1, view.zoom * factor));
  const applied = zoom / view.zoom;
  view.x = x - left - (x - left - view.x) * applied;
  view.y = y - top - (y - top - view.y) * applied;
  view.zoom = zoom;
  limitPan();
  drawView();
}

function limitPan() {
  const { width, height } = fitImage();
  view.x = Math.min(0, Math.max(width * (1 - view.zoom), view.x));
  view.y = Math.min(0, Math.max(height * (1 - view.zoom), view.y));
}

function zoomAtCentre(factor) {
  const box = stage.getBoundingClientRect();
  zoomAt(factor, box.width / 2, box.height / 2);
}

function moveDivider(x) {
  const { left, width } = fitImage();
  byId("divider").value = Math.min(100, Math.max(0, 100 * (x - left) / width));
  drawView();
}

function swapLayers() {
  [view.a, view.b] = [view.b, view.a];
  updateLayers();
}

function chooseLayerB(layer) {
  if (layer < PHOTOGRAPH || layer >= data.layers.length) return;
  view.b = layer;
  updateLayers();
}

// One pointer moves the divider if it starts there or if nothing is zoomed, else the image; two pointers zoom.
stage.addEventListener("pointerdown", event => {
  const box = stage.getBoundingClientRect(), { left, width } = fitImage();
  const divider = left + width * Number(byId("divider").value) / 100, x = event.clientX - box.left;
  const movesDivider = view.zoom === 1 || Math.abs(x - divider) < 20;
  pointers.set(event.pointerId, { x, y: event.clientY - box.top, movesDivider });
  stage.setPointerCapture(event.pointerId);
  if (movesDivider && pointers.size === 1) moveDivider(x);
});
stage.addEventListener("pointermove", event => {
  const pointer = pointers.get(event.pointerId);
  if (!pointer) return;
  const box = stage.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  if (pointers.size === 2) {
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
    const before = Math.hypot(pointer.x - other.x, pointer.y - other.y);
    const after = Math.hypot(x - other.x, y - other.y);
    if (before > 0) zoomAt(after / before, (x + other.x) / 2, (y + other.y) / 2);
  } else if (pointer.movesDivider) {
    moveDivider(x);
  } else {
    view.x += x - pointer.x;
    view.y += y - pointer.y;
    limitPan();
    drawView();
  }
  Object.assign(pointer, { x, y });
});
for (const name of ["pointerup", "pointercancel"]) {
  stage.addEventListener(name, event => pointers.delete(event.pointerId));
}
stage.addEventListener("wheel", event => {
  const box = stage.getBoundingClientRect();
  event.preventDefault();
  zoomAt(Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });
new ResizeObserver(drawView).observe(stage);
