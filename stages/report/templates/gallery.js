// The gallery: filters, orders, and cards that are made page by page and drawn when they come into view.

const byId = id => document.getElementById(id);
const controls = byId("controls"), cards = byId("cards"), count = byId("count");
const CARDS_PER_PAGE = 40;
const gallery = { shown: [], numCards: 0 };

function addOptions(select, options) {
  select.replaceChildren(...options.map(([value, text]) => build("option", { value }, text)));
}

function countBy(key) {
  const counts = new Map();
  for (const image of data.images) for (const id of image[key] || []) counts.set(id, (counts.get(id) || 0) + 1);
  return [...counts].sort((a, b) => a[0] - b[0]);
}

function listSortOptions() {
  const runs = data.scored.map(run => [`iou ${run}`, `IoU of ${data.runs[run]}, lowest first`]);
  const pairs = data.pairs.map(([a, b], index) => [`dis ${index}`, `Disagreement of ${data.runs[a]} and ${data.runs[b]}`]);
  const score = data.images.some(image => image.score !== null) ? [["score", "Score of the best class, lowest first"]] : [];
  return [...runs, ...pairs, ...score, ["id", "Id"]];
}

function chooseFirstLayer() {
  const kinds = data.layers.map(layer => layer.kind);
  const first = ["masks", "cams", "truth"].map(kind => kinds.lastIndexOf(kind)).find(index => index >= 0);
  return first === undefined ? PHOTOGRAPH : first;
}

function fillControls() {
  const layers = [[PHOTOGRAPH, "Photograph"], ...layerNames.map((name, index) => [index, name])];
  for (const id of ["layer", "layer-a", "layer-b"]) addOptions(byId(id), layers);
  byId("layer").value = chooseFirstLayer();
  const classes = countBy("classes"), tags = countBy("tags");
  addOptions(byId("class-filter"), [["", "All classes"], ...classes.map(([id, n]) => [id, `${data.classes[id].name} (${n})`])]);
  addOptions(byId("tag-filter"), [["", "All tags"], ...tags.map(([id, n]) => [id, `${data.tags[id]} (${n})`])]);
  byId("class-filter").parentElement.hidden = !classes.length;
  byId("tag-filter").parentElement.hidden = !tags.length;
  addOptions(byId("sort"), listSortOptions());
  const first = [...byId("sort").options].find(option => option.value.startsWith(data.sort.slice(0, 3)));
  if (first) byId("sort").value = first.value;
  byId("view").parentElement.hidden = data.layers.length < 2;
  controls.hidden = false;
}

function readSortValue(image, key) {
  const [kind, index] = key.split(" ");
  if (kind === "iou") return image.iou[index];
  if (kind === "dis") return image.dis[index] === null ? null : -image.dis[index];
  return image.score;
}

function compareIds(a, b) {
  return a.id.localeCompare(b.id, undefined, { numeric: true });
}

function sortImages(images, key, isReversed) {
  const sign = isReversed ? -1 : 1;
  if (key === "id") return [...images].sort((a, b) => sign * compareIds(a, b));
  const values = new Map(images.map(image => [image, readSortValue(image, key)]));
  return [...images].sort((a, b) => {
    const first = values.get(a), second = values.get(b);
    const missing = (first === null || first === undefined) - (second === null || second === undefined);
    return missing || sign * ((first || 0) - (second || 0)) || compareIds(a, b);
  });
}

function filterImages() {
  const text = byId("search").value.trim().toLowerCase();
  const classId = byId("class-filter").value, tag = byId("tag-filter").value;
  return data.images.filter(image =>
    (!classId || image.classes.includes(Number(classId))) &&
    (!tag || (image.tags || []).includes(Number(tag))) &&
    (!text || image.id.toLowerCase().includes(text) || listTags(image).toLowerCase().includes(text)));
}

function updateGallery() {
  gallery.shown = sortImages(filterImages(), byId("sort").value, byId("reverse").checked);
  const total = data.images.length, shown = gallery.shown.length;
  count.textContent = shown === total ? `${total} images` : shown ? `${shown} of ${total} images` :
    "No image matches. Clear the filters to see all images.";
  const view = data.layers.length < 2 ? "tiles" : byId("view").value;
  cards.className = view;
  byId("layer").parentElement.hidden = view === "rows";
  for (const canvas of cards.querySelectorAll("canvas")) drawingObserver.unobserve(canvas);
  cards.replaceChildren();
  gallery.numCards = 0;
  addCards();
}

function addCards() {
  const page = gallery.shown.slice(gallery.numCards, gallery.numCards + CARDS_PER_PAGE);
  for (const image of page) cards.append(buildCard(image, gallery.numCards++));
  const rest = gallery.shown.length - gallery.numCards;
  byId("more").hidden = !rest;
  byId("more").textContent = `Show ${Math.min(CARDS_PER_PAGE, rest)} more images (${rest} not shown yet)`;
}

function describeScores(image) {
  const texts = data.scored.map(run => [data.runs[run], formatPercent(image.iou[run])]);
  const key = byId("sort").value.split(" ");
  if (key[0] === "dis") texts.push(["Disagreement", formatPercent(image.dis[key[1]])]);
  if (key[0] === "score" && image.score !== null) texts.push(["Score", image.score.toFixed(2)]);
  return texts;
}

function buildCard(image, position) {
  const layers = cards.className === "rows" ? [PHOTOGRAPH, ...data.layers.keys()] : [Number(byId("layer").value)];
  const scores = describeScores(image);
  const button = build("button", { type: "button", class: "card", "aria-haspopup": "dialog",
    tabindex: position ? "-1" : "0" });
  const panels = build("span", { class: "panels" }, ...layers.map(layer => buildThumbnail(image, layer)));
  const heading = data.scored.length ? [build("span", { class: "only-read" }, "IoU in %: ")] : [];
  const list = build("span", { class: "card-scores" }, ...heading, ...scores.map(([name, value]) => build("span", {},
    build("span", { class: "run-name", dir: "auto" }, name), " ", build("b", {}, value))));
  const text = build("span", { class: "card-text" }, build("span", { class: "card-id", dir: "auto" }, image.id),
    build("span", { class: "card-tags", dir: "auto" }, listTags(image)), list);
  button.append(...(cards.className === "rows" ? [text, panels] : [panels, text]));
  button.addEventListener("click", event => openViewer(position, event.target.layer));
  return build("li", {}, button);
}

function buildThumbnail(image, layer) {
  const canvas = build("canvas", { width: "1", height: "1", "aria-hidden": "true" });
  Object.assign(canvas, { image, layer });
  drawingObserver.observe(canvas);
  const run = data.layers[layer]?.kind === "masks" ? data.layers[layer].run : -1;
  const score = run in image.iou ? [" ", build("b", {}, formatPercent(image.iou[run]))] : [];
  const title = cards.className === "rows" ? [build("span", { class: "panel-title" },
    build("span", { dir: "auto" }, nameLayer(layer)), ...score)] : [];
  const shape = cards.className === "rows" ? `aspect-ratio: ${image.w} / ${image.h}` : null;
  return build("span", { class: "panel" }, build("span", { class: "frame", style: shape }, canvas,
    build("span", { class: "message", hidden: true })), ...title);
}

function readOpacity() {
  return Number(byId("opacity").value) / 100;
}

const drawingObserver = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries) {
    target.isVisible = isIntersecting;
    if (isIntersecting) drawThumbnail(target, target.image, target.layer, readOpacity());
    else if (target.width > 1) releaseThumbnail(target);
  }
}, { rootMargin: "400px" });

function redrawThumbnails() {
  for (const canvas of cards.querySelectorAll("canvas")) {
    if (cards.className === "tiles") canvas.layer = Number(byId("layer").value);
    if (canvas.isVisible) drawThumbnail(canvas, canvas.image, canvas.layer, readOpacity());
  }
}

// Moves the focus from card to card: left and right by one, up and down by a row of the grid.
function moveFocus(key) {
  const buttons = [...cards.querySelectorAll(".card")], current = buttons.indexOf(document.activeElement);
  if (current < 0) return false;
  const top = buttons[0].getBoundingClientRect().top;
  const columns = Math.max(1, buttons.findIndex(button => button.getBoundingClientRect().top > top + 4));
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  if (current + step >= buttons.length && gallery.numCards < gallery.shown.length) {
    addCards();
    return moveFocus(key);
  }
  focusCard(Math.min(buttons.length - 1, Math.max(0, current + step)));
  return true;
}

function focusCard(position) {
  while (gallery.numCards <= position && gallery.numCards < gallery.shown.length) addCards();
  const buttons = cards.querySelectorAll(".card");
  cards.querySelector('.card[tabindex="0"]')?.setAttribute("tabindex", "-1");
  if (buttons[position]) {
    buttons[position].setAttribute("tabindex", "0");
    buttons[position].focus();
    buttons[position].scrollIntoView({ block: "nearest" });
  }
}
