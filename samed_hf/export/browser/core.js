// Scans and images to the model's input and logits to labels, as samed_hf's Python computes them. No DOM, no network.

const TYPES = {2: Uint8Array, 4: Int16Array, 8: Int32Array, 16: Float32Array, 64: Float64Array, 256: Int8Array, 512: Uint16Array, 768: Uint32Array};
const HINT = "Export the scan again as NIfTI (.nii.gz).";

export class Refused extends Error {}

export async function inflate(bytes, format = "gzip") {
  try {
    return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format))).arrayBuffer());
  } catch (error) {
    if (error instanceof RangeError) throw error; // too little memory
    throw new Refused("The compressed file is damaged or incomplete. Copy or download it again.");
  }
}

export async function deflate(bytes, format = "gzip") {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new CompressionStream(format))).arrayBuffer());
}

/** Values at `offset` as a typed array of numbers; scaled ones and 64-bit floats as float32. */
function readValues(bytes, offset, Type, count, little, slope = 1, inter = 0) {
  const missing = offset + count * Type.BYTES_PER_ELEMENT - bytes.length;
  if (missing > 0) throw new Refused(`The file is damaged: it ends ${missing} bytes too early. Copy or download it again.`);
  const raw = bytes.slice(offset, offset + count * Type.BYTES_PER_ELEMENT);
  if (!little && Type.BYTES_PER_ELEMENT > 1) {
    for (let i = 0; i < raw.length; i += Type.BYTES_PER_ELEMENT) raw.subarray(i, i + Type.BYTES_PER_ELEMENT).reverse();
  }
  let values = new Type(raw.buffer);
  if (slope !== 1 || inter !== 0) values = Float32Array.from(values, (value) => value * slope + inter);
  else if (Type === Float64Array || Type === Uint32Array) values = Float32Array.from(values);
  if (values instanceof Float32Array && !values.every(Number.isFinite)) {
    throw new Refused("The scan holds NaN or infinite values: replace them by finite intensities.");
  }
  return values;
}

/** A NIfTI-1 or NIfTI-2 file, not compressed, as {shape, channels, data, affine, header}. */
export function parseNifti(bytes) {
  if (bytes.length < 348) throw new Refused(`The file is damaged or no NIfTI: it has ${bytes.length} bytes. ${HINT}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const little = [348, 540].includes(view.getInt32(0, true));
  const size = view.getInt32(0, little);
  if (![348, 540].includes(size) || bytes.length < size) throw new Refused(`This is no NIfTI file, or it is damaged. ${HINT}`);
  const two = size === 540;
  const [i16, f32, f64] = [(o) => view.getInt16(o, little), (o) => view.getFloat32(o, little), (o) => view.getFloat64(o, little)];
  const dim = Array.from({length: 8}, (_, i) => (two ? Number(view.getBigInt64(16 + 8 * i, little)) : i16(40 + 2 * i)));
  const pixdim = Array.from({length: 8}, (_, i) => (two ? f64(104 + 8 * i) : f32(76 + 4 * i)));
  const code = i16(two ? 12 : 70);
  if (dim[0] < 2 || dim[0] > 7 || dim.slice(1, dim[0] + 1).some((n) => n < 1)) throw new Refused("The file is damaged: it states no size of the scan.");
  if (!TYPES[code]) throw new Refused(`The values are of NIfTI type ${code}, expected real numbers of at most 64 bits (no colours). ${HINT}`);
  const lengths = Array.from({length: 7}, (_, i) => (i < dim[0] ? dim[i + 1] : 1));
  const [shape, channels] = [lengths.slice(0, 3), lengths.slice(3).reduce((a, b) => a * b, 1)];
  const [slope, inter] = two ? [f64(176), f64(184)] : [f32(112), f32(116)];
  const scale = Number.isFinite(slope) && slope !== 0 ? [slope, inter] : [1, 0];
  const count = shape[0] * shape[1] * shape[2] * channels;
  const data = readValues(bytes, two ? Number(view.getBigInt64(168, little)) : f32(108), TYPES[code], count, little, ...scale);
  const [qform, sform] = two ? [view.getInt32(344, little), view.getInt32(348, little)] : [i16(252), i16(254)];
  let affine;
  if (sform > 0) affine = [0, 1, 2].map((r) => [0, 1, 2, 3].map((c) => (two ? f64(400 + 32 * r + 8 * c) : f32(280 + 16 * r + 4 * c))));
  else if (qform > 0) affine = quaternionAffine([0, 1, 2, 3, 4, 5].map((i) => (two ? f64(352 + 8 * i) : f32(256 + 4 * i))), pixdim);
  else affine = [0, 1, 2].map((r) => [0, 1, 2, 3].map((c) => {
    const step = (r ? 1 : -1) * (pixdim[r + 1] || 1);
    return c === r ? step : c === 3 ? (-step * (shape[r] - 1)) / 2 : 0;
  }));
  const unit = {1: 1000, 3: 0.001}[(two ? view.getInt32(500, little) : bytes[123]) & 7] || 1;
  affine = affine.map((row) => row.map((value) => value * unit));
  if (shape[2] === 1 && affine.every((row) => row[2] === 0)) setNormal(affine);
  return checked({shape, channels, data, affine, header: little && !two ? bytes.slice(0, 352) : null});
}

function quaternionAffine([b, c, d, x, y, z], pixdim) {
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d));
  const [di, dj, dk] = [pixdim[1], pixdim[2], pixdim[3] * (pixdim[0] < 0 ? -1 : 1)];
  return [
    [(a * a + b * b - c * c - d * d) * di, 2 * (b * c - a * d) * dj, 2 * (b * d + a * c) * dk, x],
    [2 * (b * c + a * d) * di, (a * a + c * c - b * b - d * d) * dj, 2 * (c * d - a * b) * dk, y],
    [2 * (b * d - a * c) * di, 2 * (c * d + a * b) * dj, (a * a + d * d - b * b - c * c) * dk, z],
  ];
}

function setNormal(affine) {
  const [u, v] = [0, 1].map((c) => affine.map((row) => row[c] / Math.hypot(...affine.map((one) => one[c]))));
  [0, 1, 2].forEach((r) => { affine[r][2] = u[(r + 1) % 3] * v[(r + 2) % 3] - u[(r + 2) % 3] * v[(r + 1) % 3]; });
}

export function determinant([[a, b, c], [d, e, f], [g, h, i]]) {
  return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
}

/** The affine of a DICOM stack from the places of its slices' first pixels (mm, LPS): sheared for a tilted gantry; null where they fit no grid. */
export function stackAffine({shape, affine}, places) {
  const whole = determinant(affine), last = shape[2] - 1, found = [], near = (a, b) => Math.abs(a - b) < 0.1;
  for (const [x, y, z] of places) {
    const v = [-x - affine[0][3], -y - affine[1][3], z - affine[2][3]];
    const at = [0, 1, 2].map((i) => determinant(affine.map((row, r) => row.slice(0, 3).map((one, j) => (j === i ? v[r] : one)))) / whole), k = Math.round(at[2]);
    const shift = at.map((one, i) => (i === 2 ? one - k : one > (shape[i] - 1) / 2 ? one - (shape[i] - 1) : one));
    if (k >= 0 && k <= last && !(Math.hypot(...found[k] ?? [Infinity]) < Math.hypot(...shift))) found[k] = shift;
  }
  if (Array.from({length: last + 1}, (_, k) => found[k]).includes(undefined)) return null;
  if (found.flat().every((one) => near(one, 0))) return affine;
  const step = found[last].map((one, i) => (one - found[0][i]) / last);
  if (places.length !== shape[2] || !found.every((shift, k) => shift.every((one, i) => near(one, k * step[i])))) return null;
  return affine.map((row) => [row[0], row[1], row[2] + step.reduce((sum, one, i) => sum + one * row[i], 0), row[3]]);
}

function checked(volume) {
  if (!(Math.abs(determinant(volume.affine)) > 1e-12)) throw new Refused(`The file states no usable voxel size or direction (affine). ${HINT}`);
  return volume;
}

/** A NRRD file with its voxels in it, of one channel. */
export async function parseNrrd(bytes) {
  const end = findBlankLine(bytes);
  const lines = new TextDecoder("latin1").decode(bytes.subarray(0, Math.max(end, 0))).split(/\r?\n/);
  if (end < 0 || !lines[0].startsWith("NRRD")) throw new Refused(`This is no NRRD file, or it is damaged. ${HINT}`);
  const field = Object.fromEntries(lines.filter((line) => /^[^#].*?:\s/.test(line)).map((line) => [line.split(":")[0].trim().toLowerCase(), line.slice(line.indexOf(":") + 1).trim()]));
  const names = {"signed char": 256, int8: 256, int8_t: 256, "unsigned char": 2, uchar: 2, uint8: 2, uint8_t: 2, short: 4, "short int": 4, "signed short": 4, int16: 4, int16_t: 4, "unsigned short": 512, ushort: 512, uint16: 512, uint16_t: 512, int: 8, "signed int": 8, int32: 8, int32_t: 8, "unsigned int": 768, uint: 768, uint32: 768, uint32_t: 768, float: 16, double: 64};
  const shape = (field.sizes || "").split(/\s+/).map(Number);
  const sign = {"left-posterior-superior": [-1, -1, 1], lps: [-1, -1, 1], "right-anterior-superior": [1, 1, 1], ras: [1, 1, 1], "left-anterior-superior": [-1, 1, 1], las: [-1, 1, 1]}[(field.space || "lps").toLowerCase()];
  const encoding = (field.encoding || "").toLowerCase();
  if (field["data file"] || field.datafile) throw new Refused("The NRRD keeps its voxels in another file: save it as one .nrrd file.");
  if (shape.length !== 3 || !names[field.type] || !sign || !["raw", "gzip", "gz"].includes(encoding) || field["byte skip"] || field["line skip"]) {
    throw new Refused(`The NRRD has sizes ${field.sizes}, type ${field.type}, space ${field.space}, encoding ${field.encoding}: expected three sizes, real numbers, LPS, RAS or LAS, raw or gzip. ${HINT}`);
  }
  const vectors = (field["space directions"] || "").match(/\([^)]*\)/g)?.map((one) => one.slice(1, -1).split(",").map(Number));
  const directions = vectors?.length === 3 ? vectors : (field.spacings || "1 1 1").split(/\s+/).map((step, i) => [0, 1, 2].map((r) => (r === i ? Number(step) : 0)));
  const origin = (field["space origin"] || "(0,0,0)").slice(1, -1).split(",").map(Number);
  const affine = [0, 1, 2].map((r) => [...directions.map((one) => sign[r] * one[r]), sign[r] * origin[r]]);
  const stored = bytes.subarray(end);
  const raw = encoding === "raw" ? stored : await inflate(stored);
  const data = readValues(raw, 0, TYPES[names[field.type]], shape[0] * shape[1] * shape[2], (field.endian || "little") === "little");
  return checked({shape, channels: 1, data, affine, header: null});
}

function findBlankLine(bytes) {
  for (let i = 1; i < Math.min(bytes.length, 1 << 20); i++) {
    if (bytes[i] === 10 && (bytes[i - 1] === 10 || (bytes[i - 1] === 13 && bytes[i - 2] === 10))) return i + 1;
  }
  return -1;
}

/** An image's pixels, RGBA of 8 bits, as a volume of one slice; colours become grey (ITU-R 601) for one channel. */
export function imageVolume(rgba, width, height, channels) {
  if (![1, 3].includes(channels)) throw new Refused(`An image has 1 channel or 3, the model was trained on ${channels}: give a scan of that kind.`);
  const data = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (channels === 1) data[i] = Math.floor((r * 19595 + g * 38470 + b * 7471) / 65536 + 0.5);
    else [r, g, b].forEach((value, channel) => { data[channel * width * height + i] = value; });
  }
  return {shape: [width, height, 1], channels, data, affine: [[-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 1, 0]], header: null, isImage: true};
}

/** For each axis of the array, the world axis it runs along and its sign, as nibabel's io_orientation. */
export function orientationOf(affine) {
  let matrix = [0, 1, 2].map((r) => [0, 1, 2].map((c) => affine[r][c] / Math.hypot(...affine.map((row) => row[c]))));
  for (let i = 0; i < 60; i++) { // Newton's iteration for the nearest rotation
    const d = determinant(matrix), m = matrix;
    matrix = [0, 1, 2].map((r) => [0, 1, 2].map((c) => {
      const [a, b, e, f] = [(r + 1) % 3, (r + 2) % 3, (c + 1) % 3, (c + 2) % 3];
      return (m[r][c] + (m[a][e] * m[b][f] - m[a][f] * m[b][e]) / d) / 2;
    }));
  }
  const free = [0, 1, 2];
  return [0, 1, 2].map((column) => {
    const axis = free.reduce((best, one) => (Math.abs(matrix[one][column]) > Math.abs(matrix[best][column]) ? one : best));
    free.splice(free.indexOf(axis), 1);
    return {axis, sign: matrix[axis][column] < 0 ? -1 : 1};
  });
}

/** How slices lie in the volume's array: counts, the place of the first pixel, and steps of slice, row and column. */
export function planSlices(volume, processor) {
  const steps = [1, volume.shape[0], volume.shape[0] * volume.shape[1]];
  let axes = [0, 1, 2].map((axis) => ({size: volume.shape[axis], step: steps[axis], base: 0}));
  let order = [2, 1, 0];
  if (!volume.isImage) {
    if (processor.orientation) {
      const own = orientationOf(volume.affine);
      axes = [...processor.orientation].map((letter) => {
        const index = own.findIndex((one) => one.axis === {R: 0, L: 0, A: 1, P: 1, S: 2, I: 2}[letter]);
        const size = volume.shape[index], step = steps[index];
        return own[index].sign === ("RAS".includes(letter) ? 1 : -1) ? {size, step, base: 0} : {size, step: -step, base: step * (size - 1)};
      });
    }
    order = processor.axis_order;
    const thin = axes.filter((one) => one.size === 1);
    if (thin.length === 1 && axes[order[0]].size !== 1) order = [[0, 2, 1], [1, 2, 0], [2, 1, 0]][axes.indexOf(thin[0])];
  }
  const [slices, rows, columns] = order.map((axis) => axes[axis]);
  const base = slices.base + rows.base + columns.base;
  return {count: slices.size, height: rows.size, width: columns.size, base, steps: [slices.step, rows.step, columns.step]};
}

/** The intensities that become 0 and 1, for each channel. */
export function intensityBounds(volume, processor) {
  if (volume.isImage) return Array(volume.channels).fill([0, 255]);
  const length = volume.data.length / volume.channels;
  const windows = Array.isArray(processor.intensity_window?.[0]) || processor.intensity_window?.includes?.(null) ? processor.intensity_window : Array(volume.channels).fill(processor.intensity_window);
  return windows.map((window, channel) => {
    if (window) return window;
    const values = volume.data.subarray(channel * length, (channel + 1) * length);
    if (processor.percentiles) {
      const [low, high] = percentiles(values, processor.percentiles);
      return [low, high > low ? high : low + 1];
    }
    if (values instanceof Float32Array) return [0, 1];
    if (values instanceof Uint8Array) return [0, 255];
    const [low, high] = values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
    if (low < 0 || high > 65535) return [Math.min(low, 0), Math.max(high, low + 1)];
    return high <= 1 ? [0, 255] : [0, 2 ** [8, 10, 12, 14, 16].find((bits) => high < 2 ** bits) - 1];
  });
}

/** numpy's percentiles (linear); values are counted by their upper 16 bits, and only one bin is sorted. */
export function percentiles(values, shares) {
  const float = values instanceof Float32Array ? values : Float32Array.from(values);
  const bits = new Uint32Array(float.buffer, float.byteOffset, float.length);
  const key = (word) => (word & 0x80000000 ? ~word : word | 0x80000000) >>> 16;
  const counts = new Float64Array(65537);
  for (let i = 0; i < bits.length; i++) counts[key(bits[i])]++;
  const at = (rank) => {
    let bin = 0;
    while (rank >= counts[bin]) rank -= counts[bin++];
    return float.filter((_, i) => key(bits[i]) === bin).sort()[rank];
  };
  return shares.map((share) => {
    const place = (share / 100) * (float.length - 1), low = at(Math.floor(place)), high = at(Math.ceil(place));
    const part = place - Math.floor(place);
    return low + (high - low) * part;
  });
}

const POLE = Math.sqrt(3) - 2;

/** Cubic spline coefficients along one line, in place, mirrored at the ends, as scipy's spline_filter1d. */
function filterLine(line) {
  const n = line.length;
  if (n < 2) return;
  for (let i = 0; i < n; i++) line[i] *= 6;
  const last = POLE ** (n - 1);
  let sum = line[0] + last * line[n - 1], power = POLE;
  for (let i = 1; i < n - 1 && Math.abs(power) > 1e-300; i++, power *= POLE) sum += power * (line[i] + last * line[n - 1 - i]);
  line[0] = sum / (1 - last * last);
  for (let i = 1; i < n; i++) line[i] += POLE * line[i - 1];
  line[n - 1] = ((POLE * line[n - 2] + line[n - 1]) * POLE) / (POLE * POLE - 1);
  for (let i = n - 2; i >= 0; i--) line[i] = POLE * (line[i + 1] - line[i]);
}

function splineTaps(size, newSize) {
  const mirror = (i) => (size === 1 ? 0 : i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i);
  return Array.from({length: newSize}, (_, i) => {
    const place = newSize > 1 ? (i * (size - 1)) / (newSize - 1) : 0;
    const first = Math.min(Math.floor(place), Math.max(size - 2, 0)), t = place - first, u = 1 - t;
    const weights = [(u * u * u) / 6, (4 - 6 * t * t + 3 * t * t * t) / 6, (4 - 6 * u * u + 3 * u * u * u) / 6, (t * t * t) / 6];
    return {weights, places: [-1, 0, 1, 2].map((shift) => Math.min(Math.max(mirror(first + shift), 0), size - 1))};
  });
}

function zoomRows(image, height, width, newWidth) { // the result is transposed
  const out = new Float64Array(newWidth * height), taps = width === newWidth ? null : splineTaps(width, newWidth);
  const line = new Float64Array(width);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) line[x] = image[y * width + x];
    if (taps) filterLine(line);
    for (let x = 0; x < newWidth; x++) {
      if (!taps) { out[x * height + y] = line[x]; continue; }
      const {weights: w, places: p} = taps[x];
      out[x * height + y] = w[0] * line[p[0]] + w[1] * line[p[1]] + w[2] * line[p[2]] + w[3] * line[p[3]];
    }
  }
  return out;
}

/** scipy's cubic spline zoom of an image `(height, width)`, row by row, as float32. */
export function splineZoom(image, height, width, newHeight, newWidth) {
  if (height === newHeight && width === newWidth) return Float32Array.from(image);
  const turned = zoomRows(image, height, width, newWidth);
  return Float32Array.from(zoomRows(turned, newWidth, height, newHeight));
}

/** The model's input for one slice: float32 of `(max(3, channels), image_size, image_size)`. */
export function slicePixels(volume, plan, index, processor, bounds) {
  const seen = processor.channels ?? [...bounds.keys()], length = volume.data.length / volume.channels, side = processor.image_size;
  const sources = processor.context_slices ? [-1, 0, 1].map((shift) => [seen[0], index + shift]) : seen.map((channel) => [channel, index]);
  const images = sources.map(([channel, slice]) => {
    const place = Math.min(Math.max(slice, 0), plan.count - 1), [low, high] = bounds[channel].map(Math.fround);
    const image = new Float32Array(plan.height * plan.width), range = Math.fround(bounds[channel][1] - bounds[channel][0]);
    const start = channel * length + plan.base + place * plan.steps[0];
    for (let y = 0, i = 0; y < plan.height; y++) {
      for (let x = 0, at = start + y * plan.steps[1]; x < plan.width; x++, at += plan.steps[2]) {
        image[i++] = Math.fround(Math.min(Math.max(volume.data[at], low), high) - low) / range;
      }
    }
    return image;
  });
  if (images.length === 2) images.push(images[0].map((value, i) => (value + images[1][i]) / 2));
  const zoomed = images.map((image) => {
    const size = processor.input_size;
    const first = size ? splineZoom(image, plan.height, plan.width, size, size) : image;
    return size ? splineZoom(first, size, size, side, side) : splineZoom(first, plan.height, plan.width, side, side);
  });
  const pixels = new Float32Array(Math.max(3, zoomed.length) * side * side);
  for (let channel = 0; channel * side * side < pixels.length; channel++) pixels.set(zoomed[channel % zoomed.length], channel * side * side);
  return pixels;
}

/** Weights from a side of the logits through the input's side (half-pixel centres) to the slice's (corners on corners). */
function logitTaps(low, side, size) {
  const first = (i) => {
    const place = Math.max(0, ((i + 0.5) * low) / side - 0.5), start = Math.min(Math.floor(place), low - 1);
    return [[start, 1 - (place - start)], [Math.min(start + 1, low - 1), place - start]];
  };
  return Array.from({length: size}, (_, i) => {
    if (size === side) return [...first(i), [0, 0], [0, 0]];
    const place = size > 1 ? (i * (side - 1)) / (size - 1) : 0, start = Math.min(Math.floor(place), side - 1), part = place - start;
    return [...first(start).map(([at, w]) => [at, w * (1 - part)]), ...first(Math.min(start + 1, side - 1)).map(([at, w]) => [at, w * part])];
  });
}

/** The label of each pixel of a slice from its logits `(labels, low, low)`: bilinear twice, then the largest. */
export function labelsOf(logits, count, low, side, height, width) {
  const [rows, columns] = [height, width].map((size) => logitTaps(low, side, size));
  const wide = new Float32Array(count * low * width), labels = new Uint8Array(height * width), best = new Float32Array(width);
  for (let line = 0; line < count * low; line++) {
    for (let x = 0; x < width; x++) {
      let value = 0;
      for (const [at, weight] of columns[x]) value += weight * logits[line * low + at];
      wide[line * width + x] = value;
    }
  }
  for (let y = 0; y < height; y++) {
    const [[a, p], [b, q], [c, r], [d, s]] = rows[y].map(([at, weight]) => [at * width, weight]);
    best.fill(-Infinity);
    for (let label = 0; label < count; label++) {
      const start = label * low * width;
      for (let x = 0; x < width; x++) {
        const value = Math.fround(p * wide[start + a + x] + q * wide[start + b + x] + r * wide[start + c + x] + s * wide[start + d + x]);
        if (value > best[x]) { best[x] = value; labels[y * width + x] = label; }
      }
    }
  }
  return labels;
}

/** Put the labels of a slice at their places in the array of the whole volume. */
export function placeSlice(target, labels, plan, index) {
  for (let y = 0, i = 0; y < plan.height; y++) {
    for (let x = 0; x < plan.width; x++) target[plan.base + index * plan.steps[0] + y * plan.steps[1] + x * plan.steps[2]] = labels[i++];
  }
}

/** A NIfTI file of `data` on the volume's grid; labels keep the scan's own header where it has one. */
export function writeNifti(volume, data, isLabels = false) {
  const bytes = new Uint8Array(352 + data.byteLength), view = new DataView(bytes.buffer), f = (offset, value) => view.setFloat32(offset, value, true);
  const short = (offset, value) => view.setInt16(offset, value, true);
  if (volume.header && isLabels) {
    bytes.set(volume.header);
  } else {
    view.setInt32(0, 348, true);
    f(76, 1);
    [0, 1, 2].forEach((c) => f(80 + 4 * c, Math.hypot(...volume.affine.map((row) => row[c]))));
    bytes[123] = 2;
    short(254, 1);
    volume.affine.forEach((row, r) => row.forEach((value, c) => f(280 + 16 * r + 4 * c, value)));
  }
  [3, ...volume.shape, 1, 1, 1, 1].forEach((value, i) => short(40 + 2 * i, value));
  const code = Number(Object.keys(TYPES).find((one) => data instanceof TYPES[one]));
  short(70, code);
  short(72, data.BYTES_PER_ELEMENT * 8);
  short(68, isLabels ? 1002 : 0);
  [[108, 352], [112, 1], [116, 0], [124, isLabels ? data.reduce((a, b) => Math.max(a, b), 0) : 0], [128, 0]].forEach(([at, value]) => f(at, value));
  bytes.set([110, 43, 49, 0, 0, 0, 0, 0], 344);
  bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), 352);
  return bytes;
}

/** A PNG whose pixels are the numbers of the labels, with a palette of RGB triples. */
export async function writePng(labels, width, height, palette) {
  const rows = new Uint8Array((width + 1) * height);
  for (let y = 0; y < height; y++) rows.set(labels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const table = Uint32Array.from({length: 256}, (_, n) => { for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1; return n; });
  const chunk = (name, content) => {
    const bytes = new Uint8Array(12 + content.length), view = new DataView(bytes.buffer);
    view.setUint32(0, content.length);
    bytes.set(new TextEncoder().encode(name), 4);
    bytes.set(content, 8);
    view.setUint32(8 + content.length, ~bytes.subarray(4, 8 + content.length).reduce((crc, byte) => table[(crc ^ byte) & 255] ^ (crc >>> 8), -1));
    return bytes;
  };
  const head = new Uint8Array(13), view = new DataView(head.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  head.set([8, 3], 8);
  const parts = [chunk("IHDR", head), chunk("PLTE", Uint8Array.from(palette.flat())), chunk("IDAT", await deflate(rows, "deflate")), chunk("IEND", new Uint8Array(0))];
  return new Uint8Array(await new Blob([new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]), ...parts]).arrayBuffer());
}
