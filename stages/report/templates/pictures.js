// Reads the images of the page, and colours masks and CAMs. They are grey PNG files: a palette turns them into colours,
// so no pixel is ever read back from a canvas, which some browsers forbid or falsify.

const data = JSON.parse(document.getElementById("data").textContent);
const chunks = document.getElementsByClassName("chunk");
const parsedChunks = new Map();
const bitmaps = new Map();
const MAX_BITMAPS = 240;
const IGNORED = -1, OTHER = -2;

data.images.forEach((image, index) => { image.index = index; });

function readItem(image) {
  const number = Math.floor(image.index / data.perChunk);
  if (!parsedChunks.has(number)) parsedChunks.set(number, JSON.parse(chunks[number].textContent));
  return parsedChunks.get(number)[image.index % data.perChunk];
}

function decodeBase64(text) {
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

const crcTable = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function computeCrc(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = crcTable[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

function buildChunk(type, contents) {
  const chunk = new Uint8Array(contents.length + 12), view = new DataView(chunk.buffer);
  view.setUint32(0, contents.length);
  for (let i = 0; i < 4; i++) chunk[4 + i] = type.charCodeAt(i);
  chunk.set(contents, 8);
  view.setUint32(contents.length + 8, computeCrc(chunk.subarray(4, contents.length + 8)));
  return chunk;
}

// Turns a grey PNG of 8 bits into one with a palette: `colours` are [red, green, blue, alpha] of each value.
function addPalette(png, colours) {
  const header = png.slice(16, 29), rgb = new Uint8Array(colours.length * 3), alpha = new Uint8Array(colours.length);
  header[9] = 3;
  colours.forEach((colour, value) => { rgb.set(colour.slice(0, 3), value * 3); alpha[value] = colour[3]; });
  return new Blob([png.subarray(0, 8), buildChunk("IHDR", header), buildChunk("PLTE", rgb), buildChunk("tRNS", alpha),
    png.subarray(33)], { type: "image/png" });
}

function parseColour(text) {
  return [1, 3, 5].map(start => parseInt(text.slice(start, start + 2), 16));
}

// Returns a bitmap from the cache, or makes it; the oldest are dropped.
async function findBitmap(key, make) {
  let bitmap = bitmaps.get(key);
  bitmaps.delete(key);
  bitmap = bitmap || createImageBitmap(make());
  bitmaps.set(key, bitmap);
  if (bitmaps.size > MAX_BITMAPS) bitmaps.delete(bitmaps.keys().next().value);
  return bitmap;
}

function loadPhotograph(image) {
  const item = readItem(image);
  if (!item.p) return null;
  return findBitmap(`${image.index}`, () => new Blob([decodeBase64(item.p)], { type: "image/jpeg" }));
}

function loadMask(image, layer, hidden) {
  const encoded = readItem(image).l[layer];
  const colours = encoded.c.map(id => {
    if (id === 0 || hidden.has(id)) return [0, 0, 0, 0];
    if (id === IGNORED) return [225, 225, 200, 150];
    if (id === OTHER) return [128, 128, 128, 255];
    return [...parseColour(data.classes[id].colour), 255];
  });
  return findBitmap(`${image.index}/${layer}/${[...hidden].sort()}`,
    () => addPalette(decodeBase64(encoded.d), colours));
}

// Returns one bitmap per CAM that is not hidden: the colour of its class, as opaque as the CAM is high.
function loadCams(image, layer, hidden, threshold) {
  const encoded = readItem(image).l[layer];
  return Promise.all(encoded.c.map((id, row) => {
    if (hidden.has(id)) return null;
    const colour = parseColour(data.classes[id].colour), lowest = threshold * 2.55;
    const colours = Array.from({ length: 256 }, (_, value) => [...colour, value >= lowest ? value : 0]);
    return findBitmap(`${image.index}/${layer}/${row}/${threshold}`,
      () => addPalette(decodeBase64(encoded.d[row]), colours));
  }));
}
