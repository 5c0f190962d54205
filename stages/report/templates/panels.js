// Draws a photograph with one layer over it. Layer -1 is the photograph alone.

const PHOTOGRAPH = -1;
const layerNames = data.layers.map(layer => layer.title);

function nameLayer(layer) {
  return layer === PHOTOGRAPH ? "Photograph" : layerNames[layer];
}

// Loads what a panel consists of; options are {hidden: Set of class ids, threshold: 0..99}.
async function loadPanel(image, layer, options = {}) {
  const hidden = options.hidden || new Set(), item = readItem(image);
  const panel = { photograph: await loadPhotograph(image), overlays: [], covers: [1, 1], message: item.e || "" };
  if (layer === PHOTOGRAPH) return panel;
  const encoded = item.l[layer];
  if (encoded.e) return { ...panel, message: encoded.e };
  if (data.layers[layer].kind === "cams") {
    panel.overlays = (await loadCams(image, layer, hidden, options.threshold || 0)).filter(Boolean);
    panel.covers = encoded.k;
    panel.isSmooth = true;
  } else {
    panel.overlays = [await loadMask(image, layer, hidden)];
  }
  return panel;
}

function drawPanel(context, panel, width, height, opacity) {
  context.imageSmoothingQuality = "high";
  context.imageSmoothingEnabled = true;
  if (panel.photograph) {
    context.drawImage(panel.photograph, 0, 0, width, height);
  } else {
    context.fillStyle = "#777";
    context.fillRect(0, 0, width, height);
  }
  context.save();
  context.beginPath();
  context.rect(0, 0, width, height);
  context.clip();
  context.globalAlpha = opacity;
  context.imageSmoothingEnabled = Boolean(panel.isSmooth);
  for (const overlay of panel.overlays) {
    context.drawImage(overlay, 0, 0, width * panel.covers[1], height * panel.covers[0]);
  }
  context.restore();
}

// Draws a thumbnail into a canvas element at the resolution of the screen.
async function drawThumbnail(canvas, image, layer, opacity) {
  const request = canvas.request = {};
  const panel = await loadPanel(image, layer);
  if (canvas.request !== request) return;
  const ratio = Math.min(window.devicePixelRatio || 1, 2), frame = canvas.parentElement.getBoundingClientRect();
  const scale = ratio * Math.min(frame.width / image.w, frame.height / image.h);
  canvas.width = Math.max(1, Math.round(image.w * scale));
  canvas.height = Math.max(1, Math.round(image.h * scale));
  drawPanel(canvas.getContext("2d"), panel, canvas.width, canvas.height, opacity);
  const message = canvas.parentElement.querySelector(".message");
  message.textContent = panel.message;
  message.hidden = !panel.message;
}

function releaseThumbnail(canvas) {
  canvas.request = null;
  canvas.width = canvas.height = 1;
}

function listTags(image) {
  return image.tags === null ? "tags unknown" : image.tags.map(tag => data.tags[tag]).join(", ") || "no tags";
}

function formatPercent(value) {
  return value === null || value === undefined ? "–" : (100 * value).toFixed(1);
}

// Returns an element with attributes and children; texts become text nodes, so names need no escaping.
function build(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}
