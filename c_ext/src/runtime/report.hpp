// Report: fuse the views, decode greedily under the bundle's grammar, read the text into fields.
// As mammofm_lite/heads/report.py and report.py.

#pragma once

#include <map>
#include <string>
#include <vector>

#include "grammar.hpp"
#include "graphs.hpp"
#include "results.hpp"
#include "stages.hpp"
#include "tokenizer.hpp"

namespace mammofm {

/// Read a decoded text, a whole sentence of the language.
Report read_report(const Grammar& grammar, const Language& language, const std::string& text);

/// The report head of one bundle, compiled.
class ReportRunner {
  public:
    ReportRunner(const Bundle& bundle, GraphStore& graphs, const Stages& stages);

    /// Write the report on the views whose encoder's map is given; at least one.
    Report run(const PerView<const ov::Tensor*>& maps, const Stages& stages);

  private:
    Tensors fusion_inputs(const PerView<const ov::Tensor*>& maps) const;
    std::vector<Token> decode(const TokenAutomaton& automaton, const Stages& stages);
    const float* next_logits(Token token, std::size_t position);

    const Bundle& bundle_;
    Grammar grammar_;
    Tokenizer tokenizer_;
    Graph* fusion_;
    ov::InferRequest decoder_;
    ov::Tensor token_, position_;
};

}  // namespace mammofm
