// Tensors of the heads' graphs in, typed results out; the rules of mammofm_lite/heads/.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "geometry.hpp"
#include "graphs.hpp"
#include "results.hpp"

namespace mammofm {

/// Of one view its columns of probabilities.
using Columns = std::vector<float>;

/// Combine the outputs of the head's members; every member answers for the same views.
DiagnosisResult interpret_diagnosis(const std::vector<DiagnosisMember>& members,
                                    const std::vector<PerView<std::optional<Columns>>>& answers);

/// Labels above their threshold among those that call for recall; nothing if there are none such.
std::optional<std::vector<std::string>> recall_basis(const Bundle& bundle,
                                                     const DiagnosisResult& result);

/// Marks of one detector at or above its operating point, by falling score.
std::vector<Mark> marks_of_view(const LocalizationMember& member, std::size_t view,
                                const Geometry& geometry, const Tensors& outputs);

/// In the order of the standard views, by falling score in every view.
std::vector<Mark> in_order(std::vector<Mark> marks);

/// Projections of which both breasts are there.
std::vector<std::size_t> usable_projections(const PerView<bool>& views);

PrognosisResult interpret_prognosis(const std::vector<PrognosisMember>& members,
                                    const std::vector<Tensors>& outputs,
                                    const PerView<const Geometry*>& geometries);

/// Where the report and the other heads disagree.
std::vector<ReportFlag> report_flags(const Bundle& bundle, const StudyResult& result);

}  // namespace mammofm
