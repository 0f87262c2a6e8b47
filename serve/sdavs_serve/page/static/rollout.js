// The rollout, live, for visitors with an admin key: polled, redrawn only when it has changed.

import { getJson, Problem } from "./api.js";
import { $, el, percent } from "./dom.js";

const PHASES = {
  verify: "Verify",
  load: "Load",
  golden: "Golden clips",
  shadow: "Shadow",
  canary: "Canary",
  bake: "Bake",
  idle: "Serve",
};
const POLL_MS = { idle: 2000, moving: 1000 };

let shown = "";
let servedVersion = null;
let timer = 0;
let onServedChanged = () => {};

/** Start polling, or restart after the key has changed; `onServed` is called whenever another version serves. */
export function follow(onServed) {
  clearTimeout(timer);
  shown = "";
  servedVersion = null;
  onServedChanged = onServed;
  poll();
}

async function poll() {
  let pause = POLL_MS.idle;
  if (!document.hidden) {
    try {
      const state = await getJson("v1/rollout");
      draw(state);
      if (state.phase !== "idle") pause = POLL_MS.moving;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.status === 401 || error.status === 403) {
        $("rollout").hidden = true;
        return; // until the key changes
      }
      setStatus(`No answer (${error.detail || error.title}); retrying.`);
      shown = "";
    }
  }
  timer = setTimeout(poll, pause);
}

function draw(state) {
  $("rollout").hidden = false;
  const text = JSON.stringify(state);
  if (text === shown) return;
  shown = text;
  const version = state.active && state.slots[state.active].version;
  if (servedVersion !== null && version !== servedVersion) onServedChanged();
  servedVersion = version;
  setStatus(sentence(state));
  const { refused, trouble } = state;
  $("rollout-refused").hidden = !refused && !trouble;
  if (trouble) $("rollout-refused").textContent = `The alias cannot be followed: ${trouble}`;
  if (refused) $("rollout-refused").textContent = `Version ${refused.version} was refused at ${refused.gate}: ${refused.reason}`;
  drawPhases(state);
  drawWeights(state);
  drawMeasured(state);
  drawGates(state.gates);
  $("rollout-history").replaceChildren(
    ...[...state.history].reverse().map(({ at, version, what }) =>
      el("li", {}, clock(at), el("span", {}, version === null ? what : `Version ${version}: ${what}`)),
    ),
  );
}

// A live region: setting the same text again would have it read aloud at every poll.
function setStatus(text) {
  if ($("rollout-state").textContent !== text) $("rollout-state").textContent = text;
}

function sentence({ phase, active, slots, candidate, alias, step, bake_until }) {
  const served = active && slots[active];
  if (phase === "idle") return served ? `Version ${served.version} serves${alias ? `, following @${alias}` : ""}.` : "No version serves yet.";
  if (phase === "bake") return `Version ${served.version} serves, and is watched until ${new Date(bake_until * 1000).toLocaleTimeString()}.`;
  const doing = phase === "canary" ? `canary, step ${step + 1}` : PHASES[phase].toLowerCase();
  return `Rolling out version ${candidate.version}: ${doing}.${served ? ` Version ${served.version} serves.` : ""}`;
}

function drawPhases({ phase, refused }) {
  const over = phase === "idle";
  // Between rollouts there is nothing to follow; after a refusal, how far it came.
  $("rollout-phases").hidden = over && !refused;
  const names = Object.keys(PHASES);
  const now = names.indexOf(over && refused ? phaseOf(refused.gate) : phase);
  $("rollout-phases").replaceChildren(
    ...names.map((name, index) => {
      if (index !== now) return el("li", { class: index < now ? "done" : "todo" }, PHASES[name]);
      if (over) return el("li", { class: "failed" }, `${PHASES[name]}: refused`);
      return el("li", { class: "current", "aria-current": "step" }, PHASES[name]);
    }),
  );
}

// Gates are named after their phase ("canary 25%"); two belong to the verification.
function phaseOf(gate) {
  return { digest: "verify", signature: "verify" }[gate] ?? gate.split(" ")[0];
}

function drawWeights({ phase, active, slots, candidate, ready, weight, mirror }) {
  const served = active && slots[active];
  const other = active && slots[active === "a" ? "b" : "a"];
  // The share of the other slot. In the bake `weight` is that of the served version.
  const share = !ready ? 0 : phase === "bake" ? 1 - weight : weight;
  const rows = [];
  if (served) rows.push(weightRow(`Version ${served.version}`, 1 - share, "answers", "active"));
  if (other && candidate) rows.push(weightRow(`Version ${other.version}`, share, mirror && ready ? `answers, ${percent(mirror)} mirrored` : "being made ready", "candidate"));
  else if (other) rows.push(weightRow(`Version ${other.version}`, share, "kept warm, to go back at once", "warm"));
  $("rollout-weights").replaceChildren(...rows);
}

function weightRow(name, share, what, kind) {
  const bar = el("progress", { max: "1", value: String(share), "aria-label": `${name} ${what}` });
  return el("div", { class: `weight ${kind}` }, el("span", {}, name), el("b", {}, percent(share)), bar, el("span", { class: "fine" }, what));
}

function drawMeasured({ measured, slots, active, candidate, phase }) {
  const { active: old, candidate: fresh, compared, disagreement } = measured;
  const served = active && slots[active];
  const other = active && slots[active === "a" ? "b" : "a"];
  const [before, tried] = phase === "bake" ? [other, served] : [served, candidate];
  if (phase === "idle" || !tried) {
    $("rollout-measured").replaceChildren(el("caption", {}, "Nothing is being compared."));
    return;
  }
  const ms = (value) => (value === null ? "–" : `${value.toFixed(0)} ms`);
  const row = (name, ...cells) => el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((cell) => el("td", {}, String(cell))));
  $("rollout-measured").replaceChildren(
    el("tr", {}, el("td"), el("th", { scope: "col" }, before ? `v${before.version}` : "–"), el("th", { scope: "col" }, `v${tried.version}`)),
    row("Windows", old.requests, fresh.requests),
    row("Errors", old.errors, fresh.errors),
    row("p50", ms(old.p50_ms), ms(fresh.p50_ms)),
    row("p95", ms(old.p95_ms), ms(fresh.p95_ms)),
    row("Disagreement", "", disagreement === null ? "–" : `${disagreement.toFixed(3)} of ${compared}`),
  );
}

function drawGates(gates) {
  const items = gates.map(({ gate, passed, detail, at }) =>
    el(
      "li",
      { class: passed ? "passed" : "failed" },
      clock(at),
      el("span", {}, el("b", {}, `${gate} ${passed ? "passed" : "failed"}`), detail ? `: ${detail}` : ""),
    ),
  );
  $("rollout-gates").replaceChildren(...(items.length ? items : [el("li", {}, "No gate has been reached.")]));
}

function clock(at) {
  const moment = new Date(at * 1000);
  return el("time", { datetime: moment.toISOString(), title: moment.toLocaleString() }, moment.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false }));
}
