// Labels corrected by hand: a round brush and an eraser on the plane shown, undo and redo.

/** Strokes on the labels of a volume. Places are voxels along the picture's axes (right, front, head): their steps in the array are the grid's. */
export class Corrections {
  /** @param grid {dims, start, step, mm} of the three axes; @param counts of the voxels of each label, kept up to date. */
  constructor(labels, grid, counts) {
    Object.assign(this, {labels, grid, counts, done: [], undone: [], stroke: null, unsaved: false});
  }

  /** Paint from one voxel to another in the plane across `axis`; the eraser clears `label` only. The brush's diameter is in mm (pixels of an image). */
  paint(from, to, axis, {label, diameter, erase}) {
    this.stroke ??= {after: erase ? 0 : label, before: new Map()};
    const [u, v] = [0, 1, 2].filter((one) => one !== axis), {dims, start, step, mm} = this.grid;
    const reach = [u, v].map((one) => Math.floor(diameter / 2 / mm[one])), limit = (diameter / 2) ** 2 * (1 + 1e-6);
    const count = Math.max(1, ...[u, v].map((one) => Math.abs(to[one] - from[one])));
    for (let i = 0; i <= count; i++) {
      const centre = [0, 1, 2].map((one) => Math.round(from[one] + ((to[one] - from[one]) * i) / count));
      for (let x = Math.max(0, centre[u] - reach[0]); x <= Math.min(dims[u] - 1, centre[u] + reach[0]); x++) {
        for (let y = Math.max(0, centre[v] - reach[1]); y <= Math.min(dims[v] - 1, centre[v] + reach[1]); y++) {
          if (((x - centre[u]) * mm[u]) ** 2 + ((y - centre[v]) * mm[v]) ** 2 > limit) continue;
          const index = start[0] + start[1] + start[2] + x * step[u] + y * step[v] + centre[axis] * step[axis], old = this.labels[index];
          if (old === this.stroke.after || (erase && old !== label)) continue;
          this.stroke.before.set(index, this.stroke.before.get(index) ?? old);
          this.set(index, this.stroke.after);
        }
      }
    }
  }

  set(index, value) {
    this.counts[this.labels[index]]--;
    this.counts[value]++;
    this.labels[index] = value;
  }

  /** Close the stroke; the number of voxels it changed. */
  end() {
    const {before, after} = this.stroke, stroke = {after, places: Uint32Array.from(before.keys()), before: Uint8Array.from(before.values())};
    this.stroke = null;
    if (before.size) Object.assign(this, {done: [...this.done, stroke], undone: [], unsaved: true});
    return before.size;
  }

  /** Take a stroke back, or with `again` repeat it; the number of voxels changed. */
  undo(again = false) {
    const [source, target] = again ? [this.undone, this.done] : [this.done, this.undone], stroke = source.pop();
    if (!stroke) return 0;
    stroke.places.forEach((index, i) => this.set(index, again ? stroke.after : stroke.before[i]));
    target.push(stroke);
    this.unsaved = true;
    return stroke.places.length;
  }
}

const byId = (id) => document.getElementById(id);

/** The controls of "Correct the labels" and strokes by mouse, pen, finger or key on NiiVue's planes. `page` has tell(text), isBusy(), axis(), redraw() and corrected(label). */
export class Editor {
  constructor(planes, page) {
    const {canvas} = planes, box = canvas.parentElement;
    Object.assign(this, {planes, page, box, corrections: null, stroke: null}); // a stroke has {pointer, tile, last}
    for (const tool of document.querySelectorAll("[name=tool]")) tool.onchange = () => page.tell(this.refresh());
    byId("size").oninput = () => this.refresh();
    byId("undo").onclick = () => this.undo(false);
    byId("redo").onclick = () => this.undo(true);
    addEventListener("keydown", (event) => {
      const key = event.key.toLowerCase();
      if (!(event.ctrlKey || event.metaKey) || !["z", "y"].includes(key) || event.target.type === "number") return;
      event.preventDefault();
      this.undo(key === "y" || event.shiftKey);
    });
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { if (this.stroke) this.end(); });
    canvas.addEventListener("pointerleave", () => { byId("ring").hidden = true; });
    const hold = (event) => { if (this.brush && (this.stroke || event.touches)) { event.preventDefault(); event.stopPropagation(); } };
    for (const name of ["mousedown", "mousemove", "touchstart", "touchmove"]) box.addEventListener(name, hold, {capture: true, passive: false}); // from NiiVue
  }

  /** Start with the labels shown as NiiVue's second volume, or end with null. */
  open(volume, counts, names, unit) {
    const {img, dimsRAS, pixDimsRAS, img2RASstart: start, img2RASstep: step} = volume ?? {};
    this.corrections = volume && new Corrections(img, {dims: dimsRAS.slice(1), mm: pixDimsRAS.slice(1), start, step}, counts);
    Object.assign(this, {names, unit, stroke: null});
    byId("correct").hidden = !volume;
    if (volume) byId("painted").replaceChildren(...names.slice(1).map((name, i) => new Option(name, i + 1)));
    else byId("navigate").checked = true;
    this.refresh();
  }

  get brush() { // null while the page navigates or works
    const {tool} = this.box.dataset;
    return this.page.isBusy() || !this.corrections || !tool ? null : {label: Number(byId("painted").value), diameter: Number(byId("size").value), erase: tool === "eraser"};
  }

  refresh() {
    const tool = this.box.dataset.tool = document.querySelector("[name=tool]:checked").value;
    byId("size-text").textContent = `${byId("size").value} ${this.unit === "pixels" ? "pixels" : "mm"}`;
    byId("undo").disabled = !this.corrections?.done.length;
    byId("redo").disabled = !this.corrections?.undone.length;
    return tool ? `${tool === "brush" ? "Brush" : "Eraser of the chosen label"}: drag over a plane, or press Space at the crosshair.` : "Navigate: pointer and arrow keys move the crosshair.";
  }

  placeOf({clientX, clientY}) {
    const {left, top} = this.planes.canvas.getBoundingClientRect(), at = [clientX - left, clientY - top].map((one) => one * this.planes.uiData.dpr);
    const tile = this.planes.tileIndex(...at), place = tile < 0 ? [-1] : this.planes.screenXY2TextureFrac(...at, tile);
    return place[0] < 0 ? null : {tile, voxel: [...this.planes.frac2vox(place)]};
  }

  showRing({clientX, clientY}, {diameter}, {tile}) {
    const {leftTopWidthHeight, fovMM} = this.planes.screenSlices[tile], {left, top} = this.box.getBoundingClientRect();
    const size = Math.max(4, (diameter * Math.abs(leftTopWidthHeight[2] / fovMM[0])) / this.planes.uiData.dpr);
    Object.assign(byId("ring").style, {width: `${size}px`, height: `${size}px`, left: `${clientX - left - size / 2}px`, top: `${clientY - top - size / 2}px`});
  }

  press(event) {
    const at = event.button === 0 && !this.stroke && this.brush && this.placeOf(event);
    if (!at) return;
    this.planes.canvas.focus({preventScroll: true});
    this.planes.canvas.setPointerCapture(event.pointerId);
    this.stroke = {pointer: event.pointerId, tile: at.tile, last: at.voxel};
    this.move(event);
  }

  move(event) {
    const {brush, stroke} = this, place = brush && this.placeOf(event), at = stroke && place?.tile !== stroke.tile ? null : place;
    byId("ring").hidden = !at;
    if (at) this.showRing(event, brush, at);
    if (!stroke || event.pointerId !== stroke.pointer) return;
    if (at) this.paint(brush, at.voxel, 2 - this.planes.screenSlices[at.tile].axCorSag, stroke.last);
    stroke.last = at?.voxel; // a way outside of the plane paints nothing
  }

  /** Paint at a voxel, where the crosshair goes. */
  paint(brush, voxel, axis, last = voxel) {
    this.corrections.paint(last, voxel, axis, brush);
    this.sendBox(last, voxel, axis, brush);
    this.planes.scene.crosshairPos = this.planes.vox2frac(voxel);
    this.planes.createOnLocationChange();
    this.planes.drawScene();
  }

  /** Send the colours around a move to the graphics processor; the whole labels, which take up to a second, follow after the stroke. */
  sendBox(from, to, axis, {diameter}) {
    const {gl, overlayTexture, volumes: [, {colormapLabel: {lut}, opacity}]} = this.planes, {labels, grid: {dims, mm, start, step}} = this.corrections;
    const reach = mm.map((one, i) => (i === axis ? 0 : Math.floor(diameter / 2 / one))), low = reach.map((one, i) => Math.max(0, Math.min(from[i], to[i]) - one));
    const size = reach.map((one, i) => Math.min(dims[i] - 1, Math.max(from[i], to[i]) + one) - low[i] + 1), colours = new Uint8Array(4 * size[0] * size[1] * size[2]);
    for (let i = 0, z = 0; z < size[2]; z++) for (let y = 0; y < size[1]; y++) for (let x = 0; x < size[0]; x++, i += 4) {
      const label = labels[[x, y, z].reduce((sum, one, j) => sum + start[j] + (low[j] + one) * step[j], 0)];
      if (label && lut[4 * label + 3]) colours.set([...lut.subarray(4 * label, 4 * label + 3), 255 * opacity], i);
    }
    gl.activeTexture(gl.TEXTURE2); // NiiVue's for overlays
    gl.bindTexture(gl.TEXTURE_3D, overlayTexture);
    gl.texSubImage3D(gl.TEXTURE_3D, 0, ...low, ...size, gl.RGBA, gl.UNSIGNED_BYTE, colours);
  }

  /** Paint at the crosshair. */
  stamp() {
    if (!this.brush || this.stroke) return;
    this.paint(this.brush, [...this.planes.frac2vox(this.planes.scene.crosshairPos)], this.page.axis());
    this.end();
  }

  end() {
    const label = Number(byId("painted").value), verb = this.box.dataset.tool === "eraser" ? "erased" : "painted";
    this.stroke = null;
    this.report(`${this.names[label]}: ${this.corrections.end()} ${this.unit} ${verb}`, label);
  }

  undo(again) {
    const count = this.page.isBusy() || this.stroke ? 0 : this.corrections?.undo(again);
    if (count) this.report(`${again ? "Redone" : "Undone"}: ${count} ${this.unit}`);
  }

  report(text, label) {
    this.refresh();
    this.page.tell(`${text}${this.page.corrected(label)}.`);
  }
}
