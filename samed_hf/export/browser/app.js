// The page: loads everything, forbids itself the network, then passes files to worker.js and shows what comes back.

import {Editor} from "./correct.js";

const byId = (id) => document.getElementById(id);
const LARGEST = 2e9; // bytes of the files together: beyond it a browser can't hold the scan and its labels
const WINDOWS = {"abdomen": [-125, 275], "soft tissue": [-160, 240], "liver": [-45, 105], "lung": [-1350, 150], "bone": [-500, 1300], "brain": [0, 80]};

let config, worker, planes, solid, niivue, scan = null, opened = "", busy = true, found = null, files = [], shownLabels = true, ready = false, dead = false, editor = null, later = 0;

const tell = (text) => { byId("status").textContent = text; };
function fail(text) {
  byId("error").textContent = text;
  byId("error").hidden = !text;
}

async function load() {
  config = JSON.parse(new TextDecoder().decode(await download("config.json")));
  const names = Object.keys(config.libraries), adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const gpu = !!adapter && (config.model.precision !== "float16" || adapter.features.has("shader-f16"));
  const wanted = names.filter((name) => !name.startsWith("ort") || name.startsWith("ortGpu") === gpu);
  const sizes = [config.model.bytes, ...wanted.map((name) => config.libraries[name].bytes)];
  const progress = counter(sizes.reduce((a, b) => a + b));
  const [model, core, code, ...libraries] = await Promise.all([
    downloadModel(config.model, progress), download("core.js"), download("worker.js"),
    ...wanted.map((name) => download(config.libraries[name].url, {integrity: config.libraries[name].integrity, credentials: "omit"}, progress)),
  ]);
  const library = Object.fromEntries(wanted.map((name, i) => [name.replace("ortGpu", "ort"), libraries[i]]));
  const script = (bytes) => URL.createObjectURL(new Blob([bytes], {type: "text/javascript"}));
  niivue = await import(script(library.niivue));
  const lock = document.createElement("meta"); // policies add up: from here on nothing in this page can connect
  lock.httpEquiv = "Content-Security-Policy";
  lock.content = "default-src 'none'; script-src blob: 'wasm-unsafe-eval'; img-src blob: data:; worker-src blob:";
  document.head.append(lock);
  await makeViewers();
  worker = new Worker(script(code), {type: "module"}); // from a blob, so that it is under the page's policies
  worker.onmessage = ({data}) => received[data.type](data);
  worker.onerror = (event) => stopped(`The page failed: ${event.message || "its worker ended"}. Reload it.`);
  tell("Starting the model …");
  const buffers = {model: model.buffer, ortWasm: library.ortWasm.buffer, dicomWasm: library.dicomWasm.buffer};
  worker.postMessage({type: "start", urls: {core: script(core), ort: script(library.ort), dicom: script(library.dicom)}, files: {...buffers, gpu}, about: config}, Object.values(buffers));
}

function counter(total) {
  let done = 0;
  byId("progress").hidden = false;
  return (bytes) => {
    done += bytes;
    byId("progress").value = done / total;
    tell(`Loading the model: ${Math.round(done / 1e6)} of ${Math.round(total / 1e6)} MB`);
  };
}

async function download(url, options = {}, progress = () => {}) {
  const response = await fetch(url, options);
  if (!response.ok) throw new Error(`${url} is missing (${response.status}).`);
  const parts = [], reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    progress(part.value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** A model, which the Hub may store, is compared with its hash where the page is served securely. */
async function downloadModel({file, sha256, bytes: size}, progress) {
  const bytes = await download(config.models + file, {credentials: "omit"}, progress);
  if (bytes.length < size) throw new Error(`${file} is incomplete: ${bytes.length} of ${size} bytes.`);
  const found = globalThis.crypto.subtle && new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  if (bytes.length > size || (found && Array.from(found, (byte) => byte.toString(16).padStart(2, "0")).join("") !== sha256)) throw new Error(`${file} isn't the model of this page: reload the page.`);
  return bytes;
}

async function makeViewers() {
  if (!document.createElement("canvas").getContext("webgl2")) return;
  const options = {dragAndDropEnabled: false, isRadiologicalConvention: true, show3Dcrosshair: false, loadingText: "", backColor: [0, 0, 0, 1], logLevel: "error", crosshairWidth: 0.5, crosshairWidthUnit: "percent", sagittalNoseLeft: true, crosshairColor: [0.3, 0.8, 1, 0.8], fontColor: [1, 0.7, 0, 1], multiplanarPadPixels: 6, showAllOrientationMarkers: true};
  planes = new niivue.Niivue({...options, multiplanarShowRender: 0});
  await planes.attachToCanvas(byId("planes"));
  planes.setSliceType(niivue.SLICE_TYPE.MULTIPLANAR);
  planes.onLocationChange = ({mm, values}) => {
    const [value, label] = values.map((one) => Math.round(one.value * 100) / 100);
    byId("place").textContent = `${[...mm].slice(0, 3).map((one) => one.toFixed(1)).join(", ")} mm: intensity ${value}${label ? `, ${config.labels[label].name}` : ""}`;
  };
  editor = new Editor(planes, {tell, isBusy: () => busy, axis: axisShown, corrected});
  solid = new niivue.Niivue({...options, isOrientCube: true});
  await solid.attachToCanvas(byId("solid"));
  solid.setSliceType(niivue.SLICE_TYPE.RENDER);
}

const received = {
  ready({provider, threads}) {
    ready = true;
    setBusy(false);
    const how = provider === "webgpu" ? "the graphics processor (WebGPU)" : `WebAssembly, ${threads} ${threads === 1 ? "thread" : "threads"}`;
    tell(`Ready: the model runs on ${how}.`);
    document.body.dataset.provider = `${provider} ${threads}`;
    if (files.length) open(files);
  },
  async opened(message) {
    scan = message;
    showSeries(message);
    setBusy(false);
    await showScan(message);
    tell([`${opened}: ${message.isImage ? message.shape.slice(0, 2).join(" × ") + " pixels" : message.shape.join(" × ") + " voxels"}, ${message.slices} ${message.slices === 1 ? "slice" : "slices"} to segment.`, ...message.notes].join(" "));
    byId("segment").focus();
  },
  progress({done, total, seconds}) {
    byId("progress").value = done / total;
    const left = Math.round((seconds / done) * (total - done));
    tell(`Slice ${done} of ${total}, about ${left < 90 ? `${left} s` : `${Math.round(left / 60)} min`} left.`);
  },
  cancelled() {
    setBusy(false);
    tell("Cancelled.");
  },
  async done(message) {
    found = message;
    setBusy(false);
    await showLabels(message);
    const names = config.labels.filter((one, i) => i && message.counts[i]).length;
    document.body.dataset.seconds = message.seconds / scan.slices;
    tell(`Done in ${message.seconds.toFixed(message.seconds < 10 ? 1 : 0)} s: ${names} of ${config.labels.length - 1} labels found.`);
  },
  saved({bytes, suffix}) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([bytes]));
    link.download = `${opened.replace(/\.(nii(\.gz)?|nrrd|png|jpe?g|bmp|webp|dcm)$/i, "").replace(/[^\w.-]+/g, "_")}_labels.${suffix}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    setBusy(false);
    if (editor?.corrections) editor.corrections.unsaved = false;
    tell(`${link.download} is in the downloads.`);
  },
  failed({during, text}) {
    if (during === "start") return stopped(text);
    setBusy(false);
    if (during === "open") opened = "";
    tell(opened ? "Stopped." : "Ready for another file.");
    fail(text);
  },
};

function stopped(text) {
  busy = dead = true;
  byId("progress").hidden = byId("cancel").hidden = true;
  byId("segment").disabled = byId("save").disabled = true;
  tell("The page can't go on.");
  fail(text);
}

function setBusy(now, bar = false) {
  busy = now;
  const isFocusLost = !now && [document.body, byId("cancel")].includes(document.activeElement); // a disabled or hidden button lets go of it
  byId("segment").disabled = now || !scan;
  byId("save").disabled = now || !found;
  byId("series").disabled = now;
  byId("correct").disabled = now;
  byId("cancel").hidden = !(now && bar);
  byId("progress").hidden = !now;
  if (now && bar) byId("progress").value = 0;
  else byId("progress").removeAttribute("value"); // moves without an end
  if (isFocusLost) byId(found ? "save" : "segment").focus({preventScroll: true});
}

function open(list, pick = 0) {
  if (dead || !list.length) return;
  if (ready && busy) return fail("Something runs: wait until it is done, or cancel it.");
  if (keepsCorrections()) return;
  fail("");
  const size = list.reduce((sum, file) => sum + file.size, 0), name = list.length === 1 ? list[0].name : list[0].webkitRelativePath?.split("/")[0] || `${list.length} files`;
  if (size > LARGEST) {
    return fail(`${name} is too large: ${(size / 1e9).toFixed(1)} GB, at most ${LARGEST / 1e9} GB can be read in a browser. Nothing was read; use samed-hf predict, or crop the scan.`);
  }
  files = list;
  if (busy) return tell(`${name} will be opened when the model is ready.`);
  [scan, opened] = [null, name];
  dropLabels();
  byId("viewer").hidden = true;
  setBusy(true);
  tell(`Reading ${name} …`);
  worker.postMessage({type: "open", files: list, pick, limit: planes?.uiData.max3D ?? 2048});
}

function dropLabels() {
  found = null;
  byId("found").hidden = byId("solid-box").hidden = true;
  if (planes?.volumes.length > 1) planes.removeVolumeByIndex(1);
  editor?.open(null);
}

const keepsCorrections = () => !!editor?.corrections?.unsaved && !confirm("The corrections of the labels aren't downloaded. Discard them?");

function showSeries({series, pick}) {
  byId("series-row").hidden = series.length < 2;
  byId("series").replaceChildren(...series.map((name, i) => new Option(`${name}${i ? "" : " (largest)"}`, i, false, i === pick)));
}

const bytesOf = async (buffer, name, map) => niivue.NVImage.new(buffer, name, map);

async function showScan({nifti, isImage, window: own}) {
  byId("viewer").hidden = false;
  if (!planes) return fail("This browser shows no pictures (WebGL 2 is missing or off). Segmenting and downloading work.");
  while (planes.volumes.length) planes.removeVolumeByIndex(planes.volumes.length - 1);
  planes.addVolume(await bytesOf(nifti, "scan.nii", "gray"));
  const isCt = !isImage && (config.preprocessor.channel_names || ["CT"])[0].toUpperCase().includes("CT");
  const volume = planes.volumes[0], windows = {"as the model": own, "whole range": [volume.global_min, volume.global_max], ...(isCt ? WINDOWS : {})};
  byId("window").replaceChildren(...Object.entries(windows).map(([name, bounds]) => new Option(name, bounds.join(","))), new Option("own", ""));
  for (const one of document.querySelectorAll("[data-of]")) one.hidden = (one.dataset.of === "image") !== isImage; // an image has no directions and no mm
  planes.opts.isOrientationTextVisible = !isImage;
  byId("view").value = isImage ? 0 : 3;
  setView();
  setWindow(own);
  planes.createOnLocationChange();
}

function setWindow([low, high]) {
  [byId("low").value, byId("high").value] = [low, high].map((one) => Math.round(one * 1000) / 1000);
  if (!planes?.volumes.length || !(low < high)) return;
  [planes.volumes[0].cal_min, planes.volumes[0].cal_max] = [low, high];
  planes.updateGLVolume();
}

function setView() {
  planes?.setSliceType(Number(byId("view").value));
}

const axisShown = () => [2, 1, 0, 2][Number(byId("view").value)]; // that of the slices in view
const moveAlong = (axis, step) => planes?.volumes.length && planes.moveCrosshairInVox(...[0, 1, 2].map((i) => (i === axis ? step : 0)));
const moveAcross = (step) => moveAlong(axisShown(), step);

const colormap = () => {
  const column = (value) => config.labels.map((one, i) => value(one, i));
  const on = (one, i) => (i && document.querySelector(`#legend input[data-label="${i}"]`)?.checked !== false ? 255 : 0);
  return {R: column((one) => one.rgb[0]), G: column((one) => one.rgb[1]), B: column((one) => one.rgb[2]), A: column(on), I: column((_, i) => i), labels: column((one) => one.name)};
};

async function showLabels({nifti, counts, ml, total}) {
  byId("found").hidden = false;
  byId("unit").textContent = scan.isImage ? "Area" : "Volume";
  byId("legend").replaceChildren(...config.labels.slice(1).map((label, i) => row(label, i + 1)));
  writeVolumes();
  if (!planes) return;
  if (planes.volumes.length > 1) planes.removeVolumeByIndex(1);
  planes.addVolume(await bytesOf(nifti, "labels.nii", "gray"));
  editor.open(scan.isReduced ? null : planes.volumes[1], counts, config.labels.map(({name}) => name), scan.isImage ? "pixels" : "voxels");
  while (solid.volumes.length) solid.removeVolumeByIndex(0);
  showSolid();
  colour();
  planes.resizeListener?.();
  solid.resizeListener?.();
}

function showSolid() {
  const isSolid = !scan.isImage && scan.shape.every((side) => side > 1) && found.counts.slice(1).some(Boolean);
  byId("solid-box").hidden = !isSolid;
  if (!isSolid) return;
  if (!solid.volumes.length) solid.addVolume(planes.volumes[1].clone());
  solid.volumes[0].img = planes.volumes[1].img; // the array that is corrected
  solid.volumes[0].setColormapLabel(colormap());
  solid.updateGLVolume();
}

function writeVolumes() {
  const {counts, ml, total} = found;
  for (const cell of document.querySelectorAll("#legend td[data-amount]")) {
    const count = counts[cell.dataset.amount];
    cell.textContent = !count ? "not found" : scan.isImage ? `${((100 * count) / total).toFixed(2)} %` : `${(count * ml).toFixed(count * ml < 10 ? 2 : 1)} ml`;
  }
}

/** After a stroke: what depends on the labels; the amount of a label in words. */
function corrected(label) {
  const box = document.querySelector(`#legend input[data-label="${label}"]`), isHidden = box && !(box.checked && shownLabels);
  if (isHidden) box.checked = shownLabels = true;
  if (isHidden) colour();
  else planes.refreshLayers(planes.volumes[1], 1); // the labels alone
  planes.drawScene();
  writeVolumes();
  clearTimeout(later);
  later = setTimeout(() => found && showSolid(), 400);
  return box ? `; now ${box.closest("tr").lastChild.textContent}` : "";
}

function colour() {
  planes.volumes[1].setColormapLabel(colormap());
  planes.setOpacity(1, shownLabels ? Number(byId("opacity").value) : 0);
  planes.updateGLVolume();
  if (!solid.volumes.length) return;
  solid.volumes[0].setColormapLabel(colormap());
  solid.updateGLVolume();
}

function row(label, index) {
  const line = document.createElement("tr"), box = document.createElement("input"), swatch = document.createElement("span"), cells = [0, 1, 2].map(() => document.createElement("td"));
  Object.assign(box, {type: "checkbox", checked: true, ariaLabel: `Show ${label.name}`, onchange: () => planes && colour()});
  box.dataset.label = index;
  swatch.className = "swatch";
  swatch.style.background = `rgb(${label.rgb.join(" ")})`;
  cells[0].append(box);
  cells[1].append(swatch, label.name);
  cells[2].dataset.amount = index;
  line.append(...cells);
  return line;
}

async function entriesOf(items) {
  const walk = async (entry) => {
    if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
    const reader = entry.createReader(), inside = [];
    for (let part = [0]; part.length;) inside.push(...(part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))));
    return (await Promise.all(inside.map(walk))).flat();
  };
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  return (await Promise.all(entries.map(walk))).flat();
}

const isVisible = (file) => !file.name.startsWith(".") && !/^(DICOMDIR|thumbs\.db)$/i.test(file.name);
byId("choose").onclick = () => byId("files").click();
byId("choose-folder").onclick = () => byId("folder").click();
for (const id of ["files", "folder"]) {
  byId(id).onchange = ({target}) => { open([...target.files].filter(isVisible)); target.value = ""; };
}
addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").classList.add("over"); });
addEventListener("dragleave", () => byId("drop").classList.remove("over"));
addEventListener("drop", async (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  const plain = [...event.dataTransfer.files], inside = await entriesOf(event.dataTransfer.items).catch(() => []);
  open((inside.length ? inside : plain).filter(isVisible));
});
byId("series").onchange = ({target}) => { open(files, Number(target.value)); target.value = scan?.pick ?? target.value; };
byId("segment").onclick = () => {
  if (keepsCorrections()) return;
  fail("");
  dropLabels();
  setBusy(true, true);
  tell("Slice 0: the first one tells how long it takes.");
  worker.postMessage({type: "segment"});
  byId("cancel").focus();
};
byId("cancel").onclick = () => {
  if (byId("cancel").hidden) return;
  tell("Cancelling after this slice …");
  worker.postMessage({type: "cancel"});
};
byId("save").onclick = () => { setBusy(true); worker.postMessage({type: "save", corrected: editor?.corrections?.labels ?? null}); };
byId("back").onclick = () => moveAcross(-1);
byId("next").onclick = () => moveAcross(1);
byId("window").onchange = ({target}) => target.value && setWindow(target.value.split(",").map(Number));
for (const id of ["low", "high"]) byId(id).onchange = () => { byId("window").value = ""; setWindow([Number(byId("low").value), Number(byId("high").value)]); };
byId("view").onchange = setView;
byId("opacity").oninput = () => { shownLabels = true; if (planes?.volumes.length > 1) colour(); };
addEventListener("keydown", (event) => { if (event.key === "Escape") byId("cancel").click(); });
addEventListener("beforeunload", (event) => { if ((busy && scan) || editor?.corrections?.unsaved) { event.preventDefault(); event.returnValue = true; } });
byId("planes").parentElement.addEventListener("keydown", (event) => {
  if (["Tab", "Escape"].includes(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.stopPropagation(); // NiiVue has keys of its own
  const axis = axisShown();
  const fade = (step) => { byId("opacity").value = Number(byId("opacity").value) + step; byId("opacity").oninput(); };
  const next = () => { const box = byId("window"); box.selectedIndex = (box.selectedIndex + 1) % (box.options.length - 1); box.onchange({target: box}); };
  const choose = (tool) => byId("correct").hidden || byId(tool).click();
  const keys = {
    n: () => choose("navigate"), b: () => choose("brush"), e: () => choose("eraser"), " ": () => editor.stamp(),
    ArrowUp: () => moveAlong(scan.isImage ? 1 : axis, 1), ArrowDown: () => moveAlong(scan.isImage ? 1 : axis, -1), ArrowRight: () => moveAlong(axis === 0 ? 1 : 0, -1), ArrowLeft: () => moveAlong(axis === 0 ? 1 : 0, 1),
    PageUp: () => moveAlong(1, 1), PageDown: () => moveAlong(1, -1), "+": () => fade(0.1), "-": () => fade(-0.1), w: next,
    o: () => { shownLabels = !shownLabels; if (planes.volumes.length > 1) colour(); },
  };
  const act = keys[event.key] || keys[event.key.toLowerCase()];
  if (act && planes?.volumes.length) { event.preventDefault(); act(); }
}, true);

load().catch((error) => stopped(`The page can't start: ${error.message} Reload it, or export it again.`));
