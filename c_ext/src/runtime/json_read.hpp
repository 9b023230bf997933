// Reading JSON that nobody has vouched for: every field is checked before it is believed.
//
// The same strictness, field by field, as mammofm_lite/_jsonread.py.

#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mammofm {

constexpr std::size_t kMaxJsonBytes = std::size_t{4} << 20;

/// A parsed value; members and items in the order of the file.
struct Value {
    enum class Kind { null, boolean, integer, number, text, list, object };

    Kind kind = Kind::null;
    bool flag = false;
    std::int64_t integer = 0;
    double number = 0;
    std::string text;
    std::vector<Value> items;
    std::vector<std::pair<std::string, Value>> members;

    const Value* find(std::string_view key) const;
};

/// Whether texts and keys are held to what may be shown on a terminal.
enum class Texts { shown, any };

/// Content of a JSON file that must hold one object.
Value parse_json_object(std::string_view data, const std::string& name, Texts texts = Texts::shown);

/// All bytes of a file of a bundle; never waits for a pipe and never follows a link.
std::string read_regular_file(const std::string& folder, const std::string& name,
                              std::size_t most_bytes);

/// One object, and where it stands, for messages that point at a field.
class Fields {
  public:
    Fields(const Value& value, std::string where);

    const Value& value() const { return *value_; }
    const std::string& where() const { return where_; }
    bool has(std::string_view key) const { return value_->find(key) != nullptr; }
    void only(std::initializer_list<std::string_view> allowed) const;

    const std::string& text(std::string_view key) const;
    bool flag(std::string_view key) const;
    std::int64_t integer(std::string_view key, std::int64_t low, std::int64_t high) const;
    double number(std::string_view key, double low, double high) const;
    std::optional<double> optional_number(std::string_view key, double low, double high) const;
    const std::string& choice(std::string_view key,
                              std::initializer_list<std::string_view> allowed) const;
    std::vector<std::string> texts(std::string_view key) const;
    std::vector<std::int64_t> integers(std::string_view key, std::int64_t low, std::int64_t high,
                                       std::optional<std::size_t> count = {}) const;
    Fields object(std::string_view key) const;
    std::vector<Fields> objects(std::string_view key) const;
    std::vector<std::pair<std::string, Fields>> items() const;

    [[noreturn]] void fail(std::string_view key, const std::string& what) const;

  private:
    const Value& get(std::string_view key, Value::Kind kind, const char* what) const;

    const Value* value_;
    std::string where_;
};

}  // namespace mammofm
