// What one study is answered with; the fields of mammofm_lite/results.py and report.py.

#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bundle.hpp"
#include "geometry.hpp"
#include "views.hpp"

namespace mammofm {

constexpr const char* kResultSchemaVersion = "1.3";

/// One label's answer for a view, a breast or the study.
struct LabelScore {
    std::string label;
    std::vector<std::pair<std::string, double>> probabilities;
    std::optional<std::string> value;
    std::optional<double> threshold;
};
using Scores = std::vector<LabelScore>;

struct DiagnosisResult {
    PerView<std::optional<Scores>> views;
    std::array<std::optional<Scores>, 2> breasts;
    Scores study;
};

struct Mark {
    std::size_t view;
    std::string label;
    double score;
    Box box_px;
    std::optional<Box> box_mm;
};

struct LocalizationResult {
    std::vector<std::size_t> views_searched;
    std::vector<Mark> marks;
    std::vector<std::pair<std::string, double>> thresholds;  // by label, in the bundle's order
};

struct YearRisk {
    std::int64_t year;
    double score, risk;
};

struct AsymmetryPeak {
    std::int64_t year;
    std::size_t projection;
    Box left_box_px, right_box_px;
};

struct PrognosisResult {
    std::vector<YearRisk> years;
    std::vector<std::size_t> projections_used;
    std::vector<AsymmetryPeak> peaks;
};

struct ReportFinding {
    std::string kind;
    std::vector<std::pair<std::string, std::string>> descriptors;
};

struct BreastReport {
    std::string status;
    std::vector<ReportFinding> findings;
};

struct ReportSection {
    std::string name, title, text;
};

struct Report {
    std::string text;
    std::string lexicon_name, lexicon_edition;
    std::vector<ReportSection> sections;
    std::string composition;
    std::array<BreastReport, 2> breasts;  // left, right
    bool recall;
    std::optional<std::string> birads_estimate;
    std::string management;
};

struct ReportFlag {
    std::string code, detail;
};

struct ReportResult {
    Report report;
    std::vector<std::size_t> views_used;
    std::vector<ReportFlag> flags;
};

/// Why a head did not answer; both empty if it did.
struct Outcome {
    std::string reason, detail;
};

struct FileDecision {
    std::string sop_instance_uid;
    bool used;
    std::size_t view;
    std::string reason, detail;
};

struct ViewInfo {
    std::size_t view;
    std::string sop_instance_uid;
    Geometry geometry;
    std::vector<std::string> deviations;
};

struct Recall {
    bool suggested;
    std::vector<std::string> basis;
};

struct SoftwareInfo {
    std::string mammofm_lite, openvino, instruction_set, attention, cpu;
    int threads = 0;
    std::map<std::string, std::string> kernels;  // by file
};

struct StudyResult {
    std::string study_instance_uid;
    std::vector<std::string> notices;
    SoftwareInfo software;
    std::vector<FileDecision> files;
    std::vector<ViewInfo> views;
    std::vector<std::size_t> missing_views;
    std::optional<Recall> recall;
    std::array<std::optional<Outcome>, MFM_HEAD_COUNT> heads;  // of those asked for
    std::optional<DiagnosisResult> diagnosis;
    std::optional<LocalizationResult> localization;
    std::optional<PrognosisResult> prognosis;
    std::optional<ReportResult> report;
};

/// The JSON text that the Python runtime writes.
std::string to_json(const StudyResult& result, const Bundle& bundle);

}  // namespace mammofm
