#include "results.hpp"

#include <algorithm>

#include "json_write.hpp"

namespace mammofm {
namespace {

/// Writes the records of a result, each in the order of declaration of its Python dataclass.
class ResultWriter {
  public:
    ResultWriter(const StudyResult& result, const Bundle& bundle)
        : result_(result), bundle_(bundle) {}

    std::string write() {
        object([&] {
            text("schema_version", kResultSchemaVersion);
            text("study_instance_uid", result_.study_instance_uid);
            texts("notices", result_.notices);
            out_.key("model");
            model();
            out_.key("software");
            software();
            list("files", result_.files, [&](const FileDecision& file) { decision(file); });
            list("views", result_.views, [&](const ViewInfo& view) { this->view(view); });
            list("missing_views", result_.missing_views,
                 [&](std::size_t view) { out_.text(kViewNames[view]); });
            out_.key("recall");
            recall();
            out_.key("heads");
            heads();
        });
        return out_.take();
    }

  private:
    template <typename Body>
    void object(Body body) {
        out_.open('{');
        body();
        out_.close('}');
    }
    template <typename Items, typename Write>
    void list(const char* key, const Items& items, Write write) {
        out_.key(key);
        out_.open('[');
        for (const auto& item : items)
            write(item);
        out_.close(']');
    }
    void text(const char* key, std::string_view value) {
        out_.key(key);
        out_.text(value);
    }
    void optional_text(const char* key, const std::optional<std::string>& value) {
        out_.key(key);
        value ? out_.text(*value) : out_.null();
    }
    void texts(const char* key, const std::vector<std::string>& values) {
        list(key, values, [&](const std::string& value) { out_.text(value); });
    }
    void integer(const char* key, std::int64_t value) {
        out_.key(key);
        out_.integer(value);
    }
    void number(const char* key, double value) {
        out_.key(key);
        out_.number(value);
    }
    void flag(const char* key, bool value) {
        out_.key(key);
        out_.flag(value);
    }
    template <typename Values>
    void numbers(const char* key, const Values& values) {
        list(key, values, [&](double value) { out_.number(value); });
    }
    void view_names(const char* key, const std::vector<std::size_t>& views) {
        list(key, views, [&](std::size_t view) { out_.text(kViewNames[view]); });
    }

    void model() {
        object([&] {
            text("name", bundle_.name);
            text("version", bundle_.version);
            text("sha256", bundle_.sha256);
            text("precision", bundle_.precision);
            text("weights_licence", bundle_.weights.licence);
            flag("weights_synthetic", bundle_.weights.synthetic);
            text("intended_use", bundle_.intended_use);
            out_.key("file_sha256");
            object([&] {
                for (const auto& [name, record] : bundle_.files)
                    text(name.c_str(), record.sha256);
            });
        });
    }

    void software() {
        object([&] {
            text("mammofm_lite", result_.software.mammofm_lite);
            text("openvino", result_.software.openvino);
            text("instruction_set", result_.software.instruction_set);
            text("attention", result_.software.attention);
            text("cpu", result_.software.cpu);
            integer("threads", result_.software.threads);
            out_.key("kernels");
            object([&] {
                for (const auto& [name, kernels] : result_.software.kernels)
                    text(name.c_str(), kernels);
            });
        });
    }

    void decision(const FileDecision& file) {
        object([&] {
            integer("index", &file - result_.files.data() + 1);
            out_.key("sop_instance_uid");
            file.sop_instance_uid.empty() ? out_.null() : out_.text(file.sop_instance_uid);
            flag("used", file.used);
            text("view", kViewNames[file.view]);
            text("reason", file.reason);
            text("detail", file.detail);
        });
    }

    void view(const ViewInfo& view) {
        object([&] {
            text("view", kViewNames[view.view]);
            text("sop_instance_uid", view.sop_instance_uid);
            integer("rows", view.geometry.rows);
            integer("columns", view.geometry.columns);
            out_.key("pixel_spacing_source");
            view.geometry.pixel_spacing_mm ? out_.text("caller") : out_.null();
            out_.key("geometry");
            geometry(view.geometry);
            texts("deviations", view.deviations);
            out_.key("voi");
            voi();
        });
    }

    void runs(const char* key, const Runs& runs) {
        list(key, runs, [&](const auto& run) {
            out_.open('[');
            out_.integer(run.first);
            out_.integer(run.second);
            out_.close(']');
        });
    }

    void geometry(const Geometry& geometry) {
        object([&] {
            integer("rows", geometry.rows);
            integer("columns", geometry.columns);
            integer("border_px", geometry.border_px);
            runs("row_runs", geometry.row_runs);
            runs("column_runs", geometry.column_runs);
            integer("model_height", geometry.model_height);
            integer("model_width", geometry.model_width);
            flag("mirrored", geometry.mirrored);
            if (geometry.pixel_spacing_mm) {
                numbers("pixel_spacing_mm", *geometry.pixel_spacing_mm);
            } else {
                out_.key("pixel_spacing_mm");
                out_.null();
            }
        });
    }

    /// The caller gave pixels and no windows or tables.
    void voi() {
        object([&] {
            out_.key("file");
            object([&] {
                list("windows", std::vector<double>(), [](double) {});
                text("function", "LINEAR");
                integer("tables", 0);
            });
            text("applied", "none");
            text("why", "the reference applies no VOI LUT");
        });
    }

    void recall() {
        if (!result_.recall)
            return out_.null();
        object([&] {
            flag("suggested", result_.recall->suggested);
            texts("basis", result_.recall->basis);
        });
    }

    void heads() {
        object([&] {
            for (std::size_t head = 0; head < kHeadNames.size(); ++head) {
                if (!result_.heads[head])
                    continue;
                out_.key(kHeadNames[head]);
                outcome(head, *result_.heads[head]);
            }
        });
    }

    void outcome(std::size_t head, const Outcome& outcome) {
        const bool answered = outcome.reason.empty();
        object([&] {
            text("status", answered ? "answered" : "not_answered");
            optional_text("reason", answered ? std::nullopt : std::optional(outcome.reason));
            optional_text("detail", answered ? std::nullopt : std::optional(outcome.detail));
            out_.key("result");
            answered ? answer(head) : out_.null();
        });
    }

    void answer(std::size_t head) {
        switch (head) {
            case MFM_DIAGNOSIS:
                return diagnosis(*result_.diagnosis);
            case MFM_LOCALIZATION:
                return localization(*result_.localization);
            case MFM_PROGNOSIS:
                return prognosis(*result_.prognosis);
            default:
                return report(*result_.report);
        }
    }

    void score(const LabelScore& score) {
        object([&] {
            text("label", score.label);
            out_.key("probabilities");
            object([&] {
                for (const auto& [name, value] : score.probabilities)
                    number(name.c_str(), value);
            });
            optional_text("value", score.value);
            out_.key("threshold");
            score.threshold ? out_.number(*score.threshold) : out_.null();
        });
    }

    template <typename Groups, typename Names>
    void grouped(const char* key, const Groups& groups, const Names& names) {
        out_.key(key);
        object([&] {
            for (std::size_t i = 0; i < groups.size(); ++i) {
                if (groups[i])
                    list(names[i], *groups[i], [&](const LabelScore& one) { score(one); });
            }
        });
    }

    void diagnosis(const DiagnosisResult& diagnosis) {
        object([&] {
            grouped("views", diagnosis.views, kViewNames);
            grouped("breasts", diagnosis.breasts, kSideNames);
            list("study", diagnosis.study, [&](const LabelScore& one) { score(one); });
        });
    }

    void mark(const Mark& mark) {
        object([&] {
            text("view", kViewNames[mark.view]);
            text("label", mark.label);
            number("score", mark.score);
            numbers("box_px", mark.box_px);
            if (mark.box_mm) {
                numbers("box_mm", *mark.box_mm);
            } else {
                out_.key("box_mm");
                out_.null();
            }
        });
    }

    void localization(const LocalizationResult& found) {
        double lowest = found.thresholds[0].second;
        for (const auto& [_, threshold] : found.thresholds)
            lowest = std::min(lowest, threshold);
        object([&] {
            number("threshold", lowest);
            view_names("views_searched", found.views_searched);
            list("marks", found.marks, [&](const Mark& one) { mark(one); });
            out_.key("thresholds");
            object([&] {
                for (const auto& [label, threshold] : found.thresholds)
                    number(label.c_str(), threshold);
            });
        });
    }

    void prognosis(const PrognosisResult& prognosis) {
        object([&] {
            list("years", prognosis.years, [&](const YearRisk& year) {
                object([&] {
                    integer("year", year.year);
                    number("score", year.score);
                    number("risk", year.risk);
                });
            });
            list("projections_used", prognosis.projections_used,
                 [&](std::size_t used) { out_.text(kProjectionNames[used]); });
            list("peaks", prognosis.peaks, [&](const AsymmetryPeak& peak) {
                object([&] {
                    integer("year", peak.year);
                    text("projection", kProjectionNames[peak.projection]);
                    numbers("left_box_px", peak.left_box_px);
                    numbers("right_box_px", peak.right_box_px);
                });
            });
        });
    }

    void breast(const BreastReport& breast) {
        object([&] {
            text("status", breast.status);
            list("findings", breast.findings, [&](const ReportFinding& finding) {
                object([&] {
                    text("kind", finding.kind);
                    out_.key("descriptors");
                    object([&] {
                        for (const auto& [name, value] : finding.descriptors)
                            text(name.c_str(), value);
                    });
                });
            });
        });
    }

    void written(const Report& report) {
        object([&] {
            text("text", report.text);
            out_.key("lexicon");
            object([&] {
                text("name", report.lexicon_name);
                text("edition", report.lexicon_edition);
            });
            list("sections", report.sections, [&](const ReportSection& section) {
                object([&] {
                    text("name", section.name);
                    text("title", section.title);
                    text("text", section.text);
                });
            });
            text("composition", report.composition);
            out_.key("breasts");
            object([&] {
                for (std::size_t side : {1, 0}) {
                    out_.key(kSideNames[side]);
                    breast(report.breasts[side]);
                }
            });
            flag("recall", report.recall);
            optional_text("birads_estimate", report.birads_estimate);
            text("management", report.management);
        });
    }

    void report(const ReportResult& report) {
        object([&] {
            out_.key("report");
            written(report.report);
            view_names("views_used", report.views_used);
            list("flags", report.flags, [&](const ReportFlag& flag) {
                object([&] {
                    text("code", flag.code);
                    text("detail", flag.detail);
                });
            });
        });
    }

    const StudyResult& result_;
    const Bundle& bundle_;
    JsonWriter out_;
};

}  // namespace

std::string to_json(const StudyResult& result, const Bundle& bundle) {
    return ResultWriter(result, bundle).write();
}

}  // namespace mammofm
