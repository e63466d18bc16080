// What the workbench's pages need a script for. Everything they show is made by the
// server; the state of a view is its address.
"use strict";

const $ = (id) => document.getElementById(id);

// Brings a node to what a fresh one says, and returns the one that stays. What is the
// same is left as it is, with its focus, its scrolling and what was opened; rows are told
// apart by their keys.
const morph = (old, fresh) => {
  if (old.isEqualNode(fresh)) return old;
  if (old.nodeName !== fresh.nodeName || old instanceof SVGElement) return fresh;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.nodeValue = fresh.nodeValue;
    return old;
  }
  for (const a of [...old.attributes]) if (!fresh.hasAttribute(a.name) && a.name !== "open") old.removeAttribute(a.name);
  for (const a of fresh.attributes) if (old.getAttribute(a.name) !== a.value) old.setAttribute(a.name, a.value);
  const key = (n) => n.dataset?.key;
  const keyed = new Map([...old.children].filter(key).map((n) => [key(n), n]));
  const others = [...old.childNodes].filter((n) => !key(n));
  const nodes = [...fresh.childNodes].map((f) => {
    const match = key(f) ? keyed.get(key(f)) : others[0]?.nodeName === f.nodeName ? others.shift() : undefined;
    return match ? morph(match, f) : f;
  });
  const stays = new Set(nodes);
  for (const n of [...old.childNodes]) if (!stays.has(n)) n.remove();
  nodes.forEach((n, i) => { if (old.childNodes[i] !== n) old.insertBefore(n, old.childNodes[i] ?? null); });
  return old;
};

// What runs now, asked for again while somebody looks.
const live = document.querySelector("[data-live]");
if (live) {
  const said = document.querySelector("[data-asof]");
  let tag = "", waiting = false;
  const look = async () => {
    if (document.hidden || waiting) return;
    waiting = true;
    try {
      const r = await fetch(live.dataset.live, { headers: { "If-None-Match": tag, Accept: "text/html" } });
      if (r.status !== 304) {
        const fresh = new DOMParser().parseFromString(await r.text(), "text/html").getElementById(live.id);
        if (!fresh) return location.reload(); // another view now: the run has finished
        morph(live, fresh);
        tag = r.headers.get("ETag") ?? "";
      }
      said.textContent = `as of ${new Date().toLocaleTimeString()}`;
      said.removeAttribute("role");
    } catch {
      if (said.getAttribute("role") !== "alert") {
        said.setAttribute("role", "alert");
        said.textContent = "The workbench does not answer any more; above is what it said last.";
      }
    } finally {
      waiting = false;
    }
  };
  setInterval(look, 1000);
  document.addEventListener("visibilitychange", look);
  look();
}

// What stands beside a button is copied by it.
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(button.previousElementSibling); // to be copied by hand
    }
    setTimeout(() => { button.textContent = "copy"; }, 2000);
  });
}

// Choices take effect at once. A slider changes its picture and the address only.
for (const form of document.querySelectorAll("form[data-auto]")) {
  const address = () => {
    const q = new URLSearchParams(new FormData(form));
    for (const [k, v] of [...q]) if (v === "") q.delete(k);
    return new URL(`${form.getAttribute("action")}?${q}`, location.href);
  };
  form.addEventListener("submit", (e) => { e.preventDefault(); location.assign(address()); });
  form.addEventListener("change", (e) => { if (!e.target.dataset.picture) location.assign(address()); });
  form.addEventListener("input", (e) => {
    const slider = e.target;
    if (!slider.dataset.picture) return;
    $(slider.dataset.output).value = slider.value;
    const picture = $(slider.dataset.picture);
    const src = new URL(picture.src);
    src.searchParams.set(slider.name, slider.value);
    picture.src = src;
    picture.alt = picture.alt.replace(/[Ii]mage \d+/, (s) => s.replace(/\d+/, slider.value));
    history.replaceState(null, "", address());
  });
}

// Exports are certified before they come, which takes a moment.
for (const button of document.querySelectorAll("[data-export]")) {
  button.addEventListener("click", async () => {
    const status = $("export-status");
    button.disabled = true;
    status.textContent = "exporting and certifying…";
    try {
      const r = await fetch(button.dataset.export, { method: "POST", headers: { "X-Refocus": "1" } });
      if (!r.ok) throw new Error(await r.text());
      const name = /filename="([^"]+)"/.exec(r.headers.get("Content-Disposition"))[1];
      const a = document.createElement("a");
      a.href = URL.createObjectURL(await r.blob());
      a.download = name;
      a.click();
      URL.revokeObjectURL(a.href);
      status.textContent = `saved ${name}`;
    } catch (e) {
      status.textContent = String(e.message ?? e);
    }
    button.disabled = false;
  });
}

// Micrographs.
const drop = $("drop");
if (drop) {
  const options = $("options");
  let turn = 0; // of what was asked last: older answers come too late
  const say = (text, bad) => { $("status").textContent = text; $("status").className = bad ? "bad" : ""; };
  // What was chosen, without what would be so anyway, and without the file.
  const chosen = (form) => {
    const q = new URLSearchParams();
    for (const [k, v] of new FormData(form)) {
      const field = form.elements[k];
      if (v !== "" && v !== field.dataset.plain) q.set(k, field.inputMode === "decimal" ? v.replace(",", ".") : v);
    }
    return q;
  };
  const query = () => chosen(options);
  // Outputs of sliders. Parting from nought on is none.
  const output = (field) => { if (field.dataset.output) $(field.dataset.output).value = field.name === "split" ? (+field.value ? `at necks deeper than ${(1 - field.value).toFixed(2)} of the radius` : "no") : field.value; };
  const parameters = () => new URLSearchParams(location.search);
  const columns = [
    ["label", "#"], ["class", "class"], ["equivalent_diameter_nm", "diameter, nm"], ["equivalent_diameter_px", "diameter, px"], ["area_nm2", "area, nm²"],
    ["circularity", "circularity"], ["feret_max_nm", "Feret max, nm"], ["feret_min_nm", "Feret min, nm"], ["solidity", "solidity"],
    ["mean_probability", "probability"], ["centre_x_px", "x, px"], ["centre_y_px", "y, px"], ["touches_border", "cut"],
  ];
  const text = (v) => v === null || v === undefined ? "–" : typeof v === "number" ? String(+v.toPrecision(4)).replace("-", "−") : v === true ? "yes" : v === false ? "no" : v;
  const table = (rows) => {
    const t = $("particles");
    t.replaceChildren();
    const shown = columns.filter(([k]) => rows.some((r) => r[k] !== null));
    const head = t.createTHead().insertRow();
    for (const [, name] of shown) {
      const th = document.createElement("th");
      th.scope = "col";
      th.textContent = name;
      head.append(th);
    }
    const body = t.createTBody();
    for (const r of rows.slice(0, 2000)) {
      const tr = body.insertRow();
      for (const [k] of shown) tr.insertCell().textContent = text(r[k]);
    }
  };
  // What is predicted is drawn meanwhile, part by part.
  const picture = (src) => new Promise((done, fail) => {
    const im = new Image();
    im.onload = () => done(im);
    im.onerror = () => fail(new Error(`no ${src}`));
    im.src = src;
  });
  let preview;
  const draw = async (id, m, from) => {
    const canvas = $("canvas"), to = canvas.getContext("2d");
    if (from === 0 && m.height) {
      preview = await picture(`micrograph/${id}/preview.png`);
      [canvas.width, canvas.height] = [m.width, m.height];
      to.globalAlpha = 0.45;
      to.drawImage(preview, 0, 0);
      to.globalAlpha = 1;
      $("drawn").hidden = false;
    }
    await Promise.all(m.parts.map(async (p, i) => {
      if (!p.w || !p.h) return;
      const part = await picture(`micrograph/${id}/part-${from + i}.png`);
      to.clearRect(p.x, p.y, p.w, p.h);
      to.drawImage(preview, p.x, p.y, p.w, p.h, p.x, p.y, p.w, p.h);
      to.drawImage(part, p.x, p.y);
    }));
    canvas.dataset.parts = from + m.parts.length;
  };
  const view = () => {
    const id = parameters().get("id");
    if (id) $("view").src = `micrograph/${id}/${$("show").value}?${query()}`;
  };
  const measure = async (fresh) => {
    const id = parameters().get("id"), mine = ++turn;
    if (!id) return;
    let seen = fresh ? 0 : -1; // parts of the picture; what is finished is not drawn again
    for (;;) {
      const q = query();
      if (seen >= 0) q.set("seen", seen);
      const r = await fetch(`micrograph/${id}?${q}`);
      if (mine !== turn) return;
      if (!r.ok) {
        $("tiles").hidden = $("drawn").hidden = true;
        say(await r.text(), true);
        document.body.dataset.done = "failed";
        return;
      }
      const m = await r.json();
      if (mine !== turn) return;
      if (seen >= 0) {
        await draw(id, m, seen);
        if (mine !== turn) return;
        seen += m.parts.length;
      }
      if (!m.particles) {
        $("tiles").hidden = false;
        $("tiles").max = Math.max(1, m.total);
        $("tiles").value = m.done;
        say(`segmenting: ${m.done} of ${m.total} tiles`);
        if (seen <= 0) await new Promise((next) => setTimeout(next, 200));
        seen = Math.max(seen, 0);
        continue;
      }
      $("tiles").hidden = $("drawn").hidden = true;
      $("found").hidden = false;
      const n = m.particles.length;
      say(`${m.name}: ${n} particle${n === 1 ? "" : "s"}${m.median ? `, median diameter ${m.median}` : ""}`);
      $("summary").textContent = `${m.size} pixels; size of a pixel: ${m.pixel}`;
      if (options.min_diameter.value === "" && m.calibrated) options.min_diameter.value = m.min_diameter;
      $("histogram").innerHTML = m.histogram;
      $("notes").replaceChildren(...m.notes.map((x) => Object.assign(document.createElement("li"), { textContent: x })));
      $("downloads").replaceChildren("Download: ", ...m.outputs.flatMap((o, i) => {
        const a = document.createElement("a");
        a.href = `micrograph/${id}/${o === ".particles.csv" ? "particles.csv" : "file" + o}?${query()}`;
        a.textContent = o.replace(/^\./, "");
        return i ? [", ", a] : [a];
      }));
      $("view").alt = `${m.name} with ${n} particles outlined`;
      table(m.particles);
      view();
      document.body.dataset.done = m.name;
      return;
    }
  };
  const remember = (id) => {
    const q = parameters();
    q.set("id", id);
    for (const form of [drop, options]) {
      for (const field of form.elements) q.delete(field.name);
      for (const [k, v] of chosen(form)) q.set(k, v);
    }
    history.replaceState(null, "", `micrograph?${q}`);
  };
  const send = async (file) => {
    const q = chosen(drop);
    q.set("name", file.name);
    $("found").hidden = true;
    delete document.body.dataset.done;
    say(`reading ${file.name}`);
    const r = await fetch(`micrograph?${q}`, { method: "POST", body: file, headers: { "X-Refocus": "1" } });
    if (!r.ok) return say(await r.text(), true);
    remember((await r.json()).id);
    await measure(true);
  };
  const failed = (e) => say(`the workbench does not answer: ${e.message ?? e}`, true);
  $("file").addEventListener("change", (e) => { if (e.target.files[0]) send(e.target.files[0]).catch(failed); });
  document.addEventListener("dragover", (e) => { e.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", (e) => {
    e.preventDefault();
    drop.classList.remove("over");
    if (e.dataTransfer.files[0]) send(e.dataTransfer.files[0]).catch(failed);
  });
  drop.addEventListener("submit", (e) => e.preventDefault());
  options.addEventListener("submit", (e) => e.preventDefault());
  let wait = 0;
  options.addEventListener("input", (e) => {
    output(e.target);
    remember(parameters().get("id"));
    if (e.target.id === "show") return view();
    clearTimeout(wait);
    wait = setTimeout(() => measure().catch(failed), 200);
  });
  // A view that was sent, or reloaded.
  const sent = parameters();
  for (const [k, v] of sent) {
    const field = options.elements[k] ?? drop.elements[k];
    if (!field?.name) continue;
    if (field.type === "checkbox") field.checked = true; else field.value = v;
    output(field);
  }
  if (sent.get("id")) measure().catch(failed);
}
