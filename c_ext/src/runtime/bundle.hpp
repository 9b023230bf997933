// Bundles: a directory with the graphs, labels, thresholds and constants of one model.
//
// The checks of mammofm_lite/bundle.py, in the same order: the description is parsed field by
// field, every file must have the size and SHA-256 written in it, and only then may anything be
// compiled.

#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "prepare.hpp"

namespace mammofm {

struct FileRecord {
    std::int64_t bytes;
    std::string sha256;
};

struct WeightsInfo {
    bool synthetic;
    std::string licence;
    std::string notice;
    bool restricted;
};

using Sizes = std::vector<std::int64_t>;

struct EncoderSpec {
    std::string model;
    std::map<std::string, Sizes> outputs;
};

/// How views, then breasts, are combined.
enum class Rule { mean, max, highest_class };

/// One label; `classes` is empty of a binary one.
struct LabelSpec {
    std::string name;
    std::vector<std::string> classes;
    std::optional<double> threshold;
    Rule breast;
    Rule study;
    bool recall;

    bool binary() const { return classes.empty(); }
    std::size_t columns() const { return binary() ? 1 : classes.size(); }
};

struct DiagnosisMember {
    std::string model;
    std::string encoder;
    std::vector<LabelSpec> labels;
};

struct LocalizationMember {
    std::string model;
    std::string encoder;
    std::vector<std::string> labels;
    double threshold;
};

struct PrognosisMember {
    using Pair = std::array<std::int64_t, 2>;  // rows, columns

    std::string model;
    std::string encoder;
    std::vector<std::int64_t> years;
    Pair map, window, stride;
    bool latent;  // the right map is mirrored before it is compared
};

struct ReportSpec {
    std::string fusion;
    std::string decoder;
    std::string tokenizer;
    std::string grammar;
    std::string encoder;
    std::int64_t max_tokens;
};

/// The text encoder that a bundle may carry; this library checks it and does not run it.
struct TextSpec {
    std::string encoder;
    std::string model;
    std::string match;
    std::string tokenizer;
    std::int64_t size;
};

/// A verified bundle.
struct Bundle {
    std::string path;
    std::string name;
    std::string version;
    std::string intended_use;
    WeightsInfo weights;
    std::string precision;
    std::string made_with_openvino;
    PreprocessingSpec preprocessing;
    std::map<std::string, EncoderSpec> encoders;
    std::vector<DiagnosisMember> diagnosis;        // empty: the bundle has no such head
    std::vector<LocalizationMember> localization;  // as above
    std::vector<PrognosisMember> prognosis;        // as above
    std::optional<ReportSpec> report;
    std::optional<TextSpec> text;
    std::map<std::string, FileRecord> files;
    std::string sha256;

    bool has(std::size_t head) const;
    /// Name of the `.bin` that belongs to a graph.
    static std::string weights_file(const std::string& graph);
    /// Path of a verified file.
    std::string file(const std::string& name) const;
    /// Lines that must stand on every output made with this bundle.
    std::vector<std::string> notices() const;
    std::vector<const LabelSpec*> labels() const;
};

/// Read and verify a bundle directory.
Bundle open_bundle(const std::string& path);

}  // namespace mammofm
