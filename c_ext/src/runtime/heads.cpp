#include "heads.hpp"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "failure.hpp"

namespace mammofm {
namespace {

constexpr float kRounding = 1e-5f;          // a softmax of float32 may exceed 1 by some steps
constexpr std::size_t kMostBoxes = 10'000;  // the reference keeps 100
const std::array<const char*, 2> kSideWords = {"left", "right"};

/// As Python's round(value, digits): the decimal that is nearest to the exact binary value.
double rounded(double value, int digits) {
    char buffer[400];
    auto [end, _] =
        std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed, digits);
    double result = 0;
    std::from_chars(buffer, end, result);
    return result;
}

Box rounded(const Box& box, int digits) {
    Box result;
    std::transform(box.begin(), box.end(), result.begin(),
                   [&](double value) { return rounded(value, digits); });
    return result;
}

// -------------------- diagnosis

using Row = std::map<std::string, Columns>;  // by label

void check_columns(const DiagnosisMember& member, const Columns& answer) {
    std::size_t columns = 0;
    for (const LabelSpec& label : member.labels)
        columns += label.columns();
    if (answer.size() != columns)
        fail_bundle(member.model + ": answers " + std::to_string(answer.size()) +
                    " probabilities, the bundle's labels need " + std::to_string(columns));
    auto [low, high] = std::minmax_element(answer.begin(), answer.end());
    if (*low < -kRounding || *high > 1 + kRounding)
        fail_bundle(member.model + ": answers a number that is no probability");
}

void cut_by_label(const DiagnosisMember& member, const Columns& answer, Row& row) {
    check_columns(member, answer);
    auto at = answer.begin();
    for (const LabelSpec& label : member.labels) {
        row[label.name] = Columns(at, at + static_cast<std::ptrdiff_t>(label.columns()));
        at += static_cast<std::ptrdiff_t>(label.columns());
    }
}

std::size_t likeliest(const Columns& values) {
    return static_cast<std::size_t>(std::max_element(values.begin(), values.end()) -
                                    values.begin());
}

/// Sums in float32 and in order, as the Python runtime's.
Columns combined(Rule rule, const std::vector<const Columns*>& rows) {
    if (rule == Rule::highest_class) {  // the first whose most probable class comes last
        return **std::max_element(rows.begin(), rows.end(), [](const auto* one, const auto* other) {
            return likeliest(*one) < likeliest(*other);
        });
    }
    Columns result = *rows[0];
    for (std::size_t row = 1; row < rows.size(); ++row) {
        for (std::size_t i = 0; i < result.size(); ++i) {
            float value = (*rows[row])[i];
            result[i] = rule == Rule::mean ? result[i] + value : std::max(result[i], value);
        }
    }
    if (rule == Rule::mean) {
        for (float& value : result)
            value /= static_cast<float>(rows.size());
    }
    return result;
}

Row combined(const std::vector<const LabelSpec*>& labels, const std::vector<const Row*>& rows,
             Rule LabelSpec::* rule) {
    Row result;
    for (const LabelSpec* label : labels) {
        std::vector<const Columns*> columns;
        for (const Row* row : rows)
            columns.push_back(&row->at(label->name));
        result[label->name] = combined(label->*rule, columns);
    }
    return result;
}

LabelScore score_of(const LabelSpec& label, const Columns& values) {
    LabelScore score{label.name, {}, {}, {}};
    if (!label.binary()) {
        for (std::size_t i = 0; i < values.size(); ++i)
            score.probabilities.emplace_back(label.classes[i], values[i]);
        score.value = label.classes[likeliest(values)];
        return score;
    }
    const double probability = values[0];
    score.probabilities.emplace_back("yes", probability);
    score.threshold = label.threshold;
    if (label.threshold)
        score.value = probability >= *label.threshold ? "yes" : "no";
    return score;
}

Scores scores_of(const std::vector<const LabelSpec*>& labels, const Row& row) {
    Scores scores;
    for (const LabelSpec* label : labels)
        scores.push_back(score_of(*label, row.at(label->name)));
    return scores;
}

// -------------------- prognosis

/// One year's answer, and the member that gave it.
struct Year {
    std::int64_t year;
    const PrognosisMember* member;
    double score, risk;
    const std::int64_t* peak;  // [projection, row or column]
};

void check_prognosis(const PrognosisMember& member, const Tensors& outputs) {
    const std::size_t years = member.years.size();
    const ov::Shape map = outputs.at("heatmap").get_shape();
    bool fits = map.size() == 4 && map[0] == years && map[1] == 2 &&
                outputs.at("score").get_shape() == ov::Shape{years} &&
                outputs.at("risk").get_shape() == ov::Shape{years} &&
                outputs.at("peak").get_shape() == ov::Shape{years, 2, 2};
    if (!fits)
        fail_bundle(member.model + ": its answers are not for the bundle's " +
                    std::to_string(years) + " years");
    const auto* risk = outputs.at("risk").data<const float>();
    if (!std::is_sorted(risk, risk + years))
        fail_bundle(member.model + ": answers a risk that decreases over the years");
    const auto* peak = outputs.at("peak").data<const std::int64_t>();
    for (std::size_t i = 0; i < 4 * years; ++i) {
        if (peak[i] < 0 || peak[i] >= static_cast<std::int64_t>(map[2 + i % 2]))
            fail_bundle(member.model + ": answers a peak outside its map");
    }
}

std::vector<Year> years_in_order(const std::vector<PrognosisMember>& members,
                                 const std::vector<Tensors>& outputs) {
    std::vector<Year> years;
    for (std::size_t m = 0; m < members.size(); ++m) {
        check_prognosis(members[m], outputs[m]);
        const auto* score = outputs[m].at("score").data<const float>();
        const auto* risk = outputs[m].at("risk").data<const float>();
        const auto* peak = outputs[m].at("peak").data<const std::int64_t>();
        for (std::size_t i = 0; i < members[m].years.size(); ++i)
            years.push_back({members[m].years[i], &members[m], score[i], risk[i], peak + 4 * i});
    }
    std::stable_sort(years.begin(), years.end(),
                     [](const Year& one, const Year& other) { return one.year < other.year; });
    return years;
}

Box window_of(const PrognosisMember& member, const Geometry& geometry, std::int64_t row,
              std::int64_t column) {
    const double cell_x =
        static_cast<double>(geometry.model_width) / static_cast<double>(member.map[1]);
    const double cell_y =
        static_cast<double>(geometry.model_height) / static_cast<double>(member.map[0]);
    const Box model = {static_cast<double>(column) * cell_x, static_cast<double>(row) * cell_y,
                       static_cast<double>(column + member.window[1]) * cell_x,
                       static_cast<double>(row + member.window[0]) * cell_y};
    return rounded(geometry.box_to_original(model), 1);
}

AsymmetryPeak peak_of(const Year& found, std::size_t projection,
                      const PerView<const Geometry*>& geometries) {
    const PrognosisMember& member = *found.member;
    const std::int64_t row = found.peak[2 * projection] * member.stride[0];
    const std::int64_t column = found.peak[2 * projection + 1] * member.stride[1];
    // Latent: the right map was mirrored before it was compared.
    const std::int64_t right = member.latent ? member.map[1] - column - member.window[1] : column;
    return {found.year, projection,
            window_of(member, *geometries[view_of(0, projection)], row, column),
            window_of(member, *geometries[view_of(1, projection)], row, right)};
}

// -------------------- agreement

std::string lowered(std::string text) {
    for (char& c : text)
        c = c == '_' ? ' ' : c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    return text;
}

/// What a mark may be called in a report, by the report's own term; in a single view a mass and a
/// focal asymmetry are an asymmetry.
const std::map<std::string, std::set<std::string>>& names_of_marks() {
    static const std::map<std::string, std::set<std::string>> all = {
        {"mass", {"mass", "asymmetry", "focal_asymmetry"}},
        {"calcifications", {"calcifications"}},
        {"architectural_distortion", {"architectural_distortion"}},
        {"focal_asymmetry", {"focal_asymmetry", "asymmetry"}},
        {"intramammary_lymph_node", {"intramammary_lymph_node"}},
    };
    return all;
}

/// The report's term for a label of the localization head; empty if there is none.
std::string term_of(const std::string& label) {
    const std::string words = lowered(label);
    if (words.find("calcification") != std::string::npos)
        return "calcifications";
    for (const auto& [term, names] : names_of_marks()) {
        if (lowered(term) == words)
            return term;
    }
    return "";
}

void flags_against_diagnosis(const Bundle& bundle, const DiagnosisResult& diagnosis,
                             const Report& report, std::vector<ReportFlag>& flags) {
    const auto above = recall_basis(bundle, diagnosis);
    if (above && above->empty() == report.recall) {
        std::string found;
        for (const std::string& label : *above)
            found += (found.empty() ? "" : ", ") + label;
        flags.push_back(
            {"recall_differs", std::string("the report ") +
                                   (report.recall ? "suggests recall" : "suggests no recall") +
                                   "; the diagnosis head has " +
                                   (found.empty() ? "no label that asks for recall" : found) +
                                   " above threshold"});
    }
    auto density = std::find_if(diagnosis.study.begin(), diagnosis.study.end(),
                                [](const LabelScore& score) { return score.label == "density"; });
    if (density != diagnosis.study.end() && density->value != report.composition)
        flags.push_back({"composition_differs",
                         "the report calls the composition " + report.composition +
                             "; the diagnosis head says " + density->value.value_or("None")});
}

void flags_against_marks(const std::string& label, const LocalizationResult& found,
                         const Report& report, std::vector<ReportFlag>& flags) {
    const std::string term = term_of(label);
    if (term.empty())
        return;
    const std::set<std::string>& names = names_of_marks().at(term);
    for (std::size_t side : {1, 0}) {
        bool searched = std::any_of(found.views_searched.begin(), found.views_searched.end(),
                                    [&](std::size_t view) { return side_of(view) == side; });
        bool marked = std::any_of(found.marks.begin(), found.marks.end(), [&](const Mark& mark) {
            return mark.label == label && side_of(mark.view) == side;
        });
        if (!searched)
            continue;
        bool described = false, named = false;
        for (const ReportFinding& finding : report.breasts[side].findings) {
            described = described || finding.kind == term;
            named = named || names.count(finding.kind) > 0;
        }
        const std::string breast = std::string(kSideWords[side]) + " breast";
        if (described && !marked)
            flags.push_back({"finding_without_mark",
                             "the report describes " + lowered(term) + " in the " + breast +
                                 "; the localization head marks no " + label + " there"});
        if (marked && !named)
            flags.push_back({"mark_without_finding", "the localization head marks " + label +
                                                         " in the " + breast +
                                                         "; the report describes none"});
    }
}

}  // namespace

DiagnosisResult interpret_diagnosis(const std::vector<DiagnosisMember>& members,
                                    const std::vector<PerView<std::optional<Columns>>>& answers) {
    std::vector<const LabelSpec*> labels;
    PerView<Row> views;
    for (std::size_t m = 0; m < members.size(); ++m) {
        for (const LabelSpec& label : members[m].labels)
            labels.push_back(&label);
        for (std::size_t view = 0; view < views.size(); ++view) {
            if (answers[m][view])
                cut_by_label(members[m], *answers[m][view], views[view]);
        }
    }
    DiagnosisResult result;
    std::array<Row, 2> breasts;
    std::vector<const Row*> sides;
    for (std::size_t side : {0, 1}) {
        std::vector<const Row*> rows;
        for (std::size_t view : {view_of(side, 0), view_of(side, 1)}) {
            if (!views[view].empty()) {
                rows.push_back(&views[view]);
                result.views[view] = scores_of(labels, views[view]);
            }
        }
        if (rows.empty())
            continue;
        breasts[side] = combined(labels, rows, &LabelSpec::breast);
        result.breasts[side] = scores_of(labels, breasts[side]);
        sides.push_back(&breasts[side]);
    }
    result.study = scores_of(labels, combined(labels, sides, &LabelSpec::study));
    return result;
}

std::optional<std::vector<std::string>> recall_basis(const Bundle& bundle,
                                                     const DiagnosisResult& result) {
    std::set<std::string> asking;
    for (const LabelSpec* label : bundle.labels()) {
        if (label->recall && label->threshold)
            asking.insert(label->name);
    }
    if (asking.empty())
        return {};
    std::vector<std::string> above;
    for (const LabelScore& score : result.study) {
        if (asking.count(score.label) > 0 && score.value == "yes")
            above.push_back(score.label);
    }
    return above;
}

std::vector<Mark> marks_of_view(const LocalizationMember& member, std::size_t view,
                                const Geometry& geometry, const Tensors& outputs) {
    const ov::Tensor &boxes = outputs.at("boxes"), &scores = outputs.at("scores"),
                     &labels = outputs.at("labels");
    const std::size_t count = boxes.get_shape()[0];
    if (count != scores.get_size() || count != labels.get_size() || count > kMostBoxes)
        fail_bundle("the localization graph answers " + std::to_string(count) + " boxes, " +
                    std::to_string(scores.get_size()) + " scores and " +
                    std::to_string(labels.get_size()) +
                    " labels; as many of each are needed, at most " + std::to_string(kMostBoxes));
    const auto* box = boxes.data<const float>();
    const auto* score = scores.data<const float>();
    const auto* label = labels.data<const std::int64_t>();
    std::vector<Mark> marks;
    for (std::size_t i = 0; i < count; ++i, box += 4) {
        // As numpy compares: the threshold becomes float32.
        if (!(score[i] >= static_cast<float>(member.threshold)))
            continue;
        if (label[i] < 0 || label[i] >= static_cast<std::int64_t>(member.labels.size()))
            fail_bundle("the localization graph answers labels beyond the bundle's " +
                        std::to_string(member.labels.size()));
        // The reference clips one side only (facts 5.5), so a box may lie outside the image.
        const Box cut =
            geometry.clipped(geometry.box_to_original({box[0], box[1], box[2], box[3]}));
        if (!(cut[2] > cut[0] && cut[3] > cut[1]))
            continue;
        Mark mark{
            view, member.labels[static_cast<std::size_t>(label[i])], score[i], rounded(cut, 3), {}};
        if (geometry.pixel_spacing_mm)
            mark.box_mm = rounded(geometry.box_to_mm(cut), 3);
        marks.push_back(std::move(mark));
    }
    return in_order(std::move(marks));
}

std::vector<Mark> in_order(std::vector<Mark> marks) {
    std::stable_sort(marks.begin(), marks.end(), [](const Mark& one, const Mark& other) {
        return one.view != other.view ? one.view < other.view : one.score > other.score;
    });
    return marks;
}

std::vector<std::size_t> usable_projections(const PerView<bool>& views) {
    std::vector<std::size_t> used;
    for (std::size_t projection : {0, 1}) {
        if (views[view_of(0, projection)] && views[view_of(1, projection)])
            used.push_back(projection);
    }
    return used;
}

PrognosisResult interpret_prognosis(const std::vector<PrognosisMember>& members,
                                    const std::vector<Tensors>& outputs,
                                    const PerView<const Geometry*>& geometries) {
    PerView<bool> have;
    for (std::size_t view = 0; view < have.size(); ++view)
        have[view] = geometries[view] != nullptr;
    PrognosisResult result;
    result.projections_used = usable_projections(have);
    double risk = 0;
    for (const Year& year : years_in_order(members, outputs)) {
        risk = result.years.empty() ? year.risk : std::max(risk, year.risk);
        result.years.push_back({year.year, year.score, risk});
        for (std::size_t projection : result.projections_used)
            result.peaks.push_back(peak_of(year, projection, geometries));
    }
    return result;
}

std::vector<ReportFlag> report_flags(const Bundle& bundle, const StudyResult& result) {
    std::vector<ReportFlag> flags;
    const Report& report = result.report->report;
    if (result.diagnosis)
        flags_against_diagnosis(bundle, *result.diagnosis, report, flags);
    if (result.localization) {
        for (const auto& [label, _] : result.localization->thresholds)
            flags_against_marks(label, *result.localization, report, flags);
    }
    return flags;
}

}  // namespace mammofm
