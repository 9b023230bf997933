#include "report.hpp"

#include <algorithm>
#include <cmath>

#include "failure.hpp"

namespace mammofm {
namespace {

constexpr Token kBegin = 0;  // begins every report; fixed by the format of the bundle

// Names of the fusion graph's inputs in the order of the standard views.
const std::array<const char*, MFM_VIEW_COUNT> kMapInputs = {"map_l_cc", "map_l_mlo", "map_r_cc",
                                                            "map_r_mlo"};
// Section and status field of the left and of the right breast.
const std::array<const char*, 2> kBreastSections = {"left_breast", "right_breast"};
const std::array<const char*, 2> kBreastFields = {"status_L", "status_R"};

const std::string& field_of(const Walk& walk, const std::string& name) {
    const std::string* value = walk.field(name);
    if (value == nullptr)
        fail_bundle("the bundle's report grammar has no field " + in_quotes(name));
    return *value;
}

const std::string& one_of(const Walk& walk, const std::string& name, const std::string& one,
                          const std::string& other) {
    const std::string& value = field_of(walk, name);
    if (value != one && value != other)
        fail_bundle("the bundle's report grammar gives " + in_quotes(name) + " the value " +
                    in_quotes(value) + "; allowed: " + one + ", " + other);
    return value;
}

BreastReport breast_of(const Walk& walk, std::size_t side) {
    BreastReport breast;
    for (const Walk::Finding& finding : walk.findings) {
        if (finding.section == kBreastSections[side])
            breast.findings.push_back({finding.kind, finding.descriptors});
    }
    breast.status = breast.findings.empty()
                        ? one_of(walk, kBreastFields[side], "no_findings", "not_imaged")
                        : "findings";
    return breast;
}

/// What the decoder takes is what the fusion graph gives.
void check_decoder(const Bundle& bundle, std::size_t vocabulary, GraphStore& graphs) {
    const ReportSpec& spec = *bundle.report;
    Contract contract;
    contract.inputs = outputs_of(*graphs.model(spec.fusion));
    contract.inputs["token"] = contract.inputs["position"] = {"i64", {1, 1}};
    contract.outputs["logits"] = {"f32", {1, static_cast<std::int64_t>(vocabulary)}};
    check_graph(spec.decoder, *graphs.model(spec.decoder), contract);
}

}  // namespace

Report read_report(const Grammar& grammar, const Language& language, const std::string& text) {
    const Walk walk = language.read(text);
    Report report;
    for (const Walk::Section& section : walk.sections) {
        report.text += (report.text.empty() ? "" : "\n") + section.title + ": " + section.text;
        report.sections.push_back({section.name, section.title, section.text});
    }
    report.lexicon_name = grammar.lexicon_name();
    report.lexicon_edition = grammar.lexicon_edition();
    report.composition = field_of(walk, "composition");
    for (std::size_t side : {1, 0})
        report.breasts[side] = breast_of(walk, side);
    report.recall = one_of(walk, "recall", "yes", "no") == "yes";
    if (const std::string* estimate = walk.field("birads_estimate"))
        report.birads_estimate = *estimate;
    report.management = field_of(walk, "management");
    return report;
}

ReportRunner::ReportRunner(const Bundle& bundle, GraphStore& graphs, const Stages& stages)
    : bundle_(bundle),
      grammar_(bundle.path, bundle.report->grammar),
      tokenizer_(bundle.path, bundle.report->tokenizer),
      token_(ov::element::i64, {1, 1}),
      position_(ov::element::i64, {1, 1}) {
    check_decoder(bundle, tokenizer_.size(), graphs);
    fusion_ = &graphs.graph(bundle.report->fusion, stages);
    decoder_ = graphs.compile(bundle.report->decoder, stages).create_infer_request();
    decoder_.set_tensor("token", token_);
    decoder_.set_tensor("position", position_);
}

Report ReportRunner::run(const PerView<const ov::Tensor*>& maps, const Stages& stages) {
    PerView<bool> views;
    std::transform(maps.begin(), maps.end(), views.begin(),
                   [](const ov::Tensor* map) { return map != nullptr; });
    const Language language = grammar_.language(views);
    const TokenAutomaton automaton = language.automaton(tokenizer_);
    const std::size_t longest = 1 + automaton.longest();
    if (longest > static_cast<std::size_t>(bundle_.report->max_tokens))
        fail_bundle(bundle_.report->grammar + ": a report may have " + std::to_string(longest) +
                    " tokens, the decoder holds " + std::to_string(bundle_.report->max_tokens));
    const Tensors memory = fusion_->run(fusion_inputs(maps));
    for (const auto& [name, tensor] : memory)
        decoder_.set_tensor(name, tensor);
    decoder_.reset_state();
    return read_report(grammar_, language, tokenizer_.decode(decode(automaton, stages)));
}

Tensors ReportRunner::fusion_inputs(const PerView<const ov::Tensor*>& maps) const {
    const Sizes& shape = bundle_.encoders.at(bundle_.report->encoder).outputs.at("map");
    ov::Tensor blank(ov::element::f32, ov::Shape(shape.begin(), shape.end()));
    std::fill_n(blank.data<float>(), blank.get_size(), 0.0f);
    ov::Tensor present(ov::element::f32, {1, MFM_VIEW_COUNT});
    Tensors inputs;
    for (std::size_t view = 0; view < maps.size(); ++view) {
        inputs[kMapInputs[view]] = maps[view] != nullptr ? *maps[view] : blank;
        present.data<float>()[view] = maps[view] != nullptr ? 1.0f : 0.0f;
    }
    inputs["present"] = present;
    return inputs;
}

/// The likeliest token that may come next, of equal ones the lowest, until the report is complete.
std::vector<Token> ReportRunner::decode(const TokenAutomaton& automaton, const Stages& stages) {
    std::vector<Token> tokens;
    TokenAutomaton::States states = automaton.start();
    Token token = kBegin;
    for (;;) {
        const std::vector<Token> allowed = automaton.allowed(states);
        if (allowed.empty())
            return tokens;
        stages.check_cancelled();
        const float* logits = next_logits(token, tokens.size());
        token = *std::max_element(allowed.begin(), allowed.end(), [&](Token one, Token other) {
            return logits[one] < logits[other];
        });
        tokens.push_back(token);
        states = automaton.after(states, token);
    }
}

const float* ReportRunner::next_logits(Token token, std::size_t position) {
    *token_.data<std::int64_t>() = token;
    *position_.data<std::int64_t>() = static_cast<std::int64_t>(position);
    decoder_.infer();
    const ov::Tensor logits = decoder_.get_tensor("logits");
    const auto* values = logits.data<const float>();
    if (!std::all_of(values, values + logits.get_size(), [](float v) { return std::isfinite(v); }))
        fail_bundle("the report decoder gives values that are not finite");
    return values;
}

}  // namespace mammofm
