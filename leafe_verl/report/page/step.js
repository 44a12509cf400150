"use strict";
/* One step: the experience and the action it replaced, the history, the action, the feedback, the tokens trained on. */

const KINDS = {
  counterfactual: "L_cf, the revised action",
  rehearsal: "L_reh, a successful attempt",
  preference: "DPO, the preferred action",
  rejected: "DPO, the rejected action",
  recovery: "recovery, after a failed turn",
  hold: "hold, what the policy did at first",
  world_model: "world model, the feedback",
};

/** Messages of the history before step `t`, as [role, content]; see records.py. */
function historyOf(tree, a, t) {
  const owner = ownerOf(tree, a, t);
  const { parent, from } = tree.attempts[owner];
  const step = stepOf(tree, owner, t);
  const base = t > from ? continuationOf(tree, owner, t - 1) : parent === null ? [] : historyOf(tree, parent, t);
  return [...base.slice(0, step.shared), ...step.messages];
}

function continuationOf(tree, a, t) {
  const step = stepOf(tree, a, t);
  return [...historyOf(tree, a, t), ["assistant", step.action], ["user", step.feedback]];
}

function stepView(tree, pieces, treeNumber, a, t) {
  const [attempt, step] = [tree.attempts[a], stepOf(tree, a, t)];
  const isFirst = attempt.parent !== null && t === attempt.from;
  return h(
    "section",
    { class: "step", "aria-labelledby": "step-heading" },
    h("h3", { id: "step-heading", tabindex: "-1" }, `Attempt ${a}, step ${t}`),
    stepLinks(tree, treeNumber, a, t),
    t <= tree.given ? h("p", { class: "aside" }, "A given step: an earlier attempt executed it, and it was replayed here.") : null,
    isFirst ? causeOf(tree, attempt, step) : null,
    h(
      "div",
      { class: "exchange" },
      h("div", {}, h("h4", {}, "Action"), verbatim(step.action, "Action"), step.complete ? null : h("p", { class: "aside" }, "Cut by the token limit.")),
      h(
        "div",
        {},
        h("h4", {}, step.error ? "Feedback: an error" : "Feedback"),
        verbatim(step.feedback, "Feedback"),
        h("p", { class: "aside" }, `Reward ${short(step.reward)}, return so far ${short(step.return)}.`),
      ),
    ),
    historySection(tree, a, t),
    trainedSection(tree, pieces, a, t, step),
  );
}

function stepLinks(tree, treeNumber, a, t) {
  const link = (attempt, step, text) => h("a", { href: addressOf(treeNumber, attempt, step) }, text);
  const revisions = tree.attempts
    .map((each, index) => ({ ...each, index }))
    .filter((each) => each.parent !== null && each.from === t && each.steps.length && ownerOf(tree, each.parent, t) === a);
  return h(
    "p",
    { class: "links" },
    t > 1 ? link(ownerOf(tree, a, t - 1), t - 1, "← step before") : null,
    t < lastStepOf(tree.attempts[a]) ? link(a, t + 1, "step after →") : null,
    revisions.map((each) => link(each.index, t, `revised in attempt ${each.index}`)),
  );
}

/** Why the branch exists: the experience, and what it changed. */
function causeOf(tree, attempt, step) {
  const failed = stepOf(tree, attempt.parent, attempt.from);
  const failedName = `Attempt ${ownerOf(tree, attempt.parent, attempt.from)}, step ${attempt.from}`;
  const reflection = attempt.reflection === null ? null : tree.reflections[attempt.reflection];
  return h(
    "div",
    { class: "cause" },
    reflection ? [h("h4", {}, "Experience in the prompt, removed from what is trained on"), verbatim(reflection.experience, "Experience")] : null,
    reflection ? h("p", { class: "aside" }, readingOf(reflection)) : null,
    reflection && reflection.text ? h("details", {}, h("summary", {}, "The reflection, verbatim"), verbatim(reflection.text, "Reflection")) : null,
    h("h4", {}, "The failed action and the revised one"),
    diffTable(failed.action, step.action, `${failedName} (return ${short(failed.return)})`, `This step (return ${short(step.return)})`),
  );
}

function readingOf(reflection) {
  const looked = reflection.num_steps ? ` after ${plural(reflection.num_steps, "step")}` : "";
  const whose = reflection.parsed ? "the model's own answer" : "the fallback: the model's answer could not be read";
  return `Reflection on attempt ${reflection.attempt}${looked}: step ${reflection.step} went wrong (${whose}).`;
}

function historySection(tree, a, t) {
  const messages = historyOf(tree, a, t);
  const summary = `History: ${plural(messages.length, "message")} before this action`;
  const items = messages.map(([role, content]) => h("li", {}, h("p", { class: "role" }, role), verbatim(content, `Message of ${role}`)));
  return h(
    "details",
    { open: messages.length <= 2 },
    h("summary", {}, h("h4", {}, summary)),
    tree.hasPrompts ? null : h("p", { class: "aside" }, "The opening prompt was not stored."),
    h("ol", { class: "messages" }, items),
  );
}

function trainedSection(tree, pieces, a, t, step) {
  const parts = [
    ["action", examplesOn(tree, a, t, 0), step.tokens, step.logProbs],
    ["feedback", examplesOn(tree, a, t, 1), step.feedbackTokens, null],
  ].filter(([, examples]) => examples.length);
  const none = tree.hasTokens ? "No example trains on this step." : "This store keeps no tokens.";
  return h(
    "div",
    { class: "trained-on" },
    h("h4", {}, "Tokens trained on"),
    parts.length ? null : h("p", { class: "aside" }, none),
    parts.map(([name, examples, tokens, logProbs]) => tokensOf(name, examples, tokens, logProbs, pieces)),
  );
}

function tokensOf(name, examples, tokens, logProbs, pieces) {
  const reasons = examples.map((each) => `${KINDS[each.kind]} (example of attempt ${each.attempt}, ${plural(each.tokens, "token")})`);
  const shown = tokens.slice(0, 2000);
  const text = (token) => (token in pieces ? visibleSpace(pieces[token]) : String(token));
  const rows = () => [
    ["place", "token id", "text", "log-probability"],
    ...shown.map((token, i) => [String(i + 1), String(token), token in pieces ? text(token) : "–", logProbs ? short(logProbs[i]) : "–"]),
  ];
  const details = h("details", {}, h("summary", {}, "Token ids and log-probabilities as sampled"));
  details.addEventListener("toggle", () => details.append(table("Tokens", rows())), { once: true });
  return [
    h("p", {}, `${plural(tokens.length, "token")} of the ${name}: ${reasons.join("; ")}.`),
    h("p", { class: "tokens" }, shown.map((token) => [h("span", { class: "token" }, text(token)), " "])),
    shown.length < tokens.length ? h("p", { class: "aside" }, `The first ${count(shown.length)} are shown.`) : null,
    details,
  ];
}

function visibleSpace(piece) {
  return piece.replace(/ /g, "·").replace(/\n/g, "⏎").replace(/\t/g, "⇥");
}
