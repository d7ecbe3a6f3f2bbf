// Reads files, runs the model slice by slice and keeps the labels, away from the page's own thread.

let core, ort, session, config, assets, volume, labels, plan, stopped, every;
const say = (type, content = {}, transfer = []) => postMessage({type, ...content}, transfer);

onmessage = async ({data: {type, ...content}}) => {
  if (type === "cancel") stopped = true;
  try {
    await {start, open, segment, save}[type]?.(content);
  } catch (error) {
    const memory = error instanceof RangeError || /memory|alloc/i.test(error?.message || "");
    const text = error?.name === "NotReadableError" ? "The file can't be read any more: choose it again." : error?.message || String(error);
    say("failed", {during: type, text: memory ? "The browser has too little memory for this scan. Close other tabs, or use samed-hf predict." : text});
  }
};

async function start({urls, files, about}) {
  [config, assets] = [about, {dicom: urls.dicom, dicomWasm: files.dicomWasm}];
  core = await import(urls.core);
  ort = await import(urls.ort);
  const threads = self.crossOriginIsolated ? Math.max(1, Math.min(8, navigator.hardwareConcurrency - (navigator.hardwareConcurrency > 4 ? 1 : 0))) : 1;
  Object.assign(ort.env.wasm, {wasmBinary: files.ortWasm, numThreads: threads});
  const model = new Uint8Array(files.model);
  const create = async (provider) => {
    session = await ort.InferenceSession.create(model, {executionProviders: [provider]});
    return (await check()) ? provider : null;
  };
  let provider = null;
  if (files.gpu) provider = await create("webgpu").catch((error) => console.info(`WebGPU isn't used: ${error.message}`));
  provider = provider ?? (await create("wasm"));
  if (!provider) throw new Error("This browser computes other values than the model's own check: use another browser, or samed-hf predict.");
  say("ready", {provider, threads});
}

/** Whether the model gives, for a fixed pattern, the logits that the export recorded. */
async function check() {
  const side = config.preprocessor.image_size, shape = [1, config.channels, side, side];
  const pattern = Float32Array.from({length: shape.reduce((a, b) => a * b)}, (_, i) => ((i * 7) % 64) / 64);
  const {logits} = await session.run({pixel_values: new ort.Tensor("float32", pattern, shape)});
  const {step, values, range, tolerance} = config.check;
  const worst = values.reduce((most, value, i) => Math.max(most, Math.abs(logits.data[i * step] - value)), 0) / range;
  if (!(worst <= tolerance)) console.info(`The logits differ by ${worst} of their range.`);
  return worst <= tolerance;
}

async function open({files, pick = 0, limit}) {
  [volume, labels] = [null, null];
  const name = files[0].name.toLowerCase();
  const bytes = new Uint8Array(await files[0].slice(0, 132).arrayBuffer()), isDicom = String.fromCharCode(...bytes.slice(128)) === "DICM";
  let notes = [], series = [];
  if (files.length === 1 && !isDicom && /\.(png|jpe?g|bmp|webp)$/.test(name)) ({volume, notes} = await openImage(files[0], bytes));
  else if (files.length === 1 && /\.nii(\.gz)?$/.test(name)) volume = core.parseNifti(await unpacked(files[0]));
  else if (files.some((file) => /\.nhdr$/i.test(file.name))) throw new core.Refused("The NRRD keeps its voxels in another file: save it as one .nrrd file.");
  else if (files.length === 1 && name.endsWith(".nrrd")) volume = await core.parseNrrd(await unpacked(files[0]));
  else ({volume, notes, series} = await openDicom(files, pick));
  const expected = config.channels_of_scan;
  if (volume.channels !== expected) {
    const found = volume.channels;
    volume = null;
    throw new core.Refused(expected === 1 ? `The file holds ${found} volumes, e.g. time points: expected one. Save one of them as a file.` : `The file has ${found} channels, the model was trained on ${expected} (${(config.preprocessor.channel_names || []).join(", ")}).`);
  }
  plan = core.planSlices(volume, config.preprocessor);
  const length = volume.data.length / volume.channels, first = volume.isImage ? 0 : (config.preprocessor.channels?.[0] ?? 0);
  every = volume.shape.map((side) => Math.ceil(side / limit)); // of a graphics processor
  const isReduced = every.some((one) => one > 1), shown = show(volume.data.subarray(first * length, (first + 1) * length));
  if (isReduced) notes.push("It is larger than the graphics can hold: the picture is reduced, the labels aren't, and they can't be corrected here.");
  const bounds = core.intensityBounds(volume, config.preprocessor);
  say("opened", {nifti: shown.buffer, shape: volume.shape, isImage: !!volume.isImage, isReduced, slices: plan.count, window: bounds[first], notes, series, pick}, [shown.buffer]);
}

/** A NIfTI of the volume's grid for the pictures; of too large ones every n-th voxel. */
function show(data, isLabels = false) {
  const [shape, steps] = [volume.shape.map((side, i) => Math.ceil(side / every[i])), [1, volume.shape[0], volume.shape[0] * volume.shape[1]]];
  const step = steps.map((one, i) => one * every[i]), less = new data.constructor(shape[0] * shape[1] * shape[2]);
  for (let i = 0, z = 0; z < shape[2]; z++) for (let y = 0; y < shape[1]; y++) for (let x = 0; x < shape[0]; x++) less[i++] = data[x * step[0] + y * step[1] + z * step[2]];
  return core.writeNifti({shape, affine: volume.affine.map((row) => row.map((one, i) => one * (every[i] ?? 1)))}, less, isLabels);
}

async function unpacked(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  return bytes[0] === 31 && bytes[1] === 139 ? core.inflate(bytes) : bytes;
}

async function openImage(file, head) {
  if (head[0] === 0x89 && head[24] === 16) throw new core.Refused("The PNG has 16 bits, of which browsers keep 8: save it as NIfTI, or use samed-hf predict.");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {colorSpaceConversion: "none", premultiplyAlpha: "none"});
  } catch {
    throw new core.Refused(`${file.name} is damaged or no image. Copy or download it again.`);
  }
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", {willReadFrequently: true});
  context.drawImage(bitmap, 0, 0);
  const {data, width, height} = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const notes = [], channels = config.channels_of_scan;
  if (data.some((value, i) => i % 4 === 3 && value < 255)) notes.push("The image has transparent pixels, which are darker here than for samed-hf predict.");
  const isColour = channels === 1 && data.some((value, i) => i % 4 < 2 && value !== data[i + 1]), [name = "scans"] = config.preprocessor.channel_names ?? [];
  if (isColour) notes.push(`The image is in colour and was turned into grey: the model was trained on ${name} of one channel.`);
  return {volume: core.imageVolume(data, width, height, channels), notes};
}

/** The largest series of DICOM files, or the one picked, by dcm2niix. */
async function openDicom(files, pick) {
  const {default: dcm2niix} = await import(assets.dicom);
  const lines = [];
  const tool = await dcm2niix({wasmBinary: assets.dicomWasm, locateFile: (name) => name, print: (line) => lines.push(line), printErr: (line) => lines.push(line)});
  tool.FS.mkdir("/in");
  tool.FS.mkdir("/out");
  for (const [index, file] of files.entries()) tool.FS.createDataFile("/in", `${index}.dcm`, new Uint8Array(await file.arrayBuffer()), true, true);
  tool.callMain(["-o", "/out", "-f", "%s %d", "-b", "y", "-v", "y", "-z", "n", "-w", "2", "/in"]);
  // dcm2niix adds resampled copies of tilted or unevenly spaced series; the model gets the scan as it is.
  const names = tool.FS.readdir("/out").filter((name) => name.endsWith(".nii") && !/_(Tilt|Eq)(_\d+)?\.nii$/.test(name));
  const found = names.map((name) => ({name, size: tool.FS.stat(`/out/${name}`).size})).sort((a, b) => b.size - a.size), said = lines.join();
  if (!found.length) throw new core.Refused(`No scan was found in ${files.length === 1 ? files[0].name : `these ${files.length} files`}: expected NIfTI, NRRD, an image or the DICOM files of a scan.${/compress|unsupported|transfer/i.test(said) ? " Their compression may be unknown here: use samed-hf predict." : ""}`);
  const path = `/out/${found[pick].name}`, about = JSON.parse(tool.FS.readFile(path.replace(/nii$/, "json"), {encoding: "utf8"}));
  if (!about.ImageOrientationPatientDICOM) throw new core.Refused(`The DICOM has no place in the patient (${about.Modality ?? "a photo"}): expected the slices of a scan, not a projection, film or photo. Use samed-hf predict, or save it as PNG.`);
  const volume = core.parseNifti(tool.FS.readFile(path)), places = lines.filter((line) => line.includes("patient position (0020,0032)")).map((line) => line.trim().split(/\s+/).slice(-3).map(Number));
  const isKnown = places.length >= volume.shape[2]; // else frames of one file, whose places dcm2niix alone knows
  const affine = isKnown ? core.stackAffine(volume, places) : /distance varies/.test(said) ? null : volume.affine, isTilted = affine !== volume.affine;
  if (!affine) throw new core.Refused("The slices lie at uneven distances, e.g. as one is missing, or aren't parallel: copy or export the whole series again.");
  if (isTilted) Object.assign(volume, {affine, header: null});
  const notes = isTilted ? ["The gantry was tilted: the pictures show its slices as a straight stack, the downloaded labels are at their true places."] : [];
  return {volume, notes, series: found.map((one) => one.name.slice(0, -4).replaceAll("_", " "))};
}

async function segment() {
  stopped = false;
  labels = null;
  const processor = config.preprocessor, {count} = plan, bounds = core.intensityBounds(volume, processor);
  const found = new Uint8Array(volume.data.length / volume.channels), started = performance.now();
  for (let index = 0; index < count; index++) {
    await new Promise((resolve) => setTimeout(resolve)); // lets "cancel" in
    if (stopped) return say("cancelled");
    const pixels = core.slicePixels(volume, plan, index, processor, bounds), side = processor.image_size;
    const {logits} = await session.run({pixel_values: new ort.Tensor("float32", pixels, [1, config.channels, side, side])});
    const [, classes, low] = logits.dims;
    core.placeSlice(found, core.labelsOf(logits.data, classes, low, side, plan.height, plan.width), plan, index);
    say("progress", {done: index + 1, total: count, seconds: (performance.now() - started) / 1000});
  }
  labels = found;
  const counts = Array(config.labels.length).fill(0);
  for (const label of labels) counts[label]++;
  const ml = volume.isImage ? 0 : Math.abs(core.determinant(volume.affine)) / 1000;
  const shown = show(labels, true);
  say("done", {nifti: shown.buffer, counts, ml, total: labels.length, seconds: (performance.now() - started) / 1000}, [shown.buffer]);
}

async function save({corrected}) {
  labels = corrected ?? labels;
  const [width, height] = volume.shape;
  const bytes = volume.isImage ? await core.writePng(labels, width, height, config.labels.map((one) => one.rgb)) : await core.deflate(core.writeNifti(volume, labels, true));
  say("saved", {bytes, suffix: volume.isImage ? "png" : "nii.gz"}, [bytes.buffer]);
}
