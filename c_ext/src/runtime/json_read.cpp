#include "json_read.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "descriptor.hpp"
#include "failure.hpp"

namespace mammofm {
namespace {

constexpr std::size_t kDeepest = 100;       // of nested objects and lists
constexpr std::size_t kLongestNumber = 40;  // in characters
constexpr char kAnew[] = "; copy or export the bundle anew";

struct Range {
    char32_t low, high;
};

// Text is shown on terminals and put into results: no escape sequences, no reversed reading
// direction. Tab and line feed may stand in it.
constexpr Range kUnfit[] = {{0, 8},           {0x0b, 0x1f},     {0x7f, 0x9f},
                            {0x202a, 0x202e}, {0x2066, 0x2069}, {0xd800, 0xdfff}};
// Controls, formats, separators and private use: the assigned part of what Python's
// str.isprintable() refuses.
constexpr Range kUnprintable[] = {
    {0, 0x1f},          {0x7f, 0xa0},       {0xad, 0xad},       {0x600, 0x605},
    {0x61c, 0x61c},     {0x6dd, 0x6dd},     {0x70f, 0x70f},     {0x890, 0x891},
    {0x8e2, 0x8e2},     {0x1680, 0x1680},   {0x180e, 0x180e},   {0x2000, 0x200f},
    {0x2028, 0x202f},   {0x205f, 0x206f},   {0x3000, 0x3000},   {0xd800, 0xf8ff},
    {0xfeff, 0xfeff},   {0xfff0, 0xfffb},   {0xfffe, 0xffff},   {0x110bd, 0x110bd},
    {0x110cd, 0x110cd}, {0x13430, 0x1343f}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a},
    {0xe0000, 0xe007f}, {0xf0000, 0x10ffff}};

/// The next character of UTF-8 that the parser has already checked.
char32_t next_character(std::string_view text, std::size_t& at) {
    auto byte = static_cast<unsigned char>(text[at++]);
    int more = byte < 0x80 ? 0 : byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
    char32_t character = more == 0 ? byte : byte & (0x3f >> more);
    for (; more > 0 && at < text.size(); --more)
        character = character << 6 | (static_cast<unsigned char>(text[at++]) & 0x3f);
    return character;
}

template <std::size_t N>
bool holds_any(std::string_view text, const Range (&ranges)[N]) {
    for (std::size_t at = 0; at < text.size();) {
        char32_t character = next_character(text, at);
        for (const Range& range : ranges) {
            if (range.low <= character && character <= range.high)
                return true;
        }
    }
    return false;
}

/// Builds the tree and refuses what the tree must not hold.
class Builder : public nlohmann::json_sax<nlohmann::json> {
  public:
    Builder(const std::string& name, Texts texts) : name_(name), texts_(texts) {}

    Value take() { return std::move(root_); }

    bool null() override {
        place();
        return true;
    }
    bool boolean(bool flag) override {
        Value& value = place();
        value.kind = Value::Kind::boolean;
        value.flag = flag;
        return true;
    }
    bool number_integer(number_integer_t integer) override {
        Value& value = place();
        value.kind = Value::Kind::integer;
        value.integer = integer;
        value.number = static_cast<double>(integer);
        return true;
    }
    bool number_unsigned(number_unsigned_t integer) override {
        if (integer > static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max()))
            return put_number(static_cast<double>(integer));
        return number_integer(static_cast<number_integer_t>(integer));
    }
    bool number_float(number_float_t number, const string_t& text) override {
        if (text.size() > kLongestNumber)
            refuse("a number is too large or too long: " + text.substr(0, 20) + "...");
        return put_number(number);
    }
    bool string(string_t& text) override {
        if (texts_ == Texts::shown && holds_any(text, kUnfit))
            refuse("a text holds a control character");
        Value& value = place();
        value.kind = Value::Kind::text;
        value.text = std::move(text);
        return true;
    }
    bool binary(binary_t&) override { return false; }
    bool start_object(std::size_t) override { return open(Value::Kind::object); }
    bool start_array(std::size_t) override { return open(Value::Kind::list); }
    bool end_array() override {
        stack_.pop_back();
        return true;
    }
    bool key(string_t& text) override {
        if (texts_ == Texts::shown && holds_any(text, kUnprintable))
            refuse("the key " + in_quotes(text) + " is not printable");
        stack_.back()->members.emplace_back(std::move(text), Value());
        return true;
    }
    bool end_object() override {
        check_unique(*stack_.back());
        stack_.pop_back();
        return true;
    }
    bool parse_error(std::size_t, const std::string&,
                     const nlohmann::json::exception& error) override {
        // 406: a number beyond double.
        if (error.id == 406)
            refuse("a number is too large or too long");
        return false;
    }

  private:
    [[noreturn]] void refuse(const std::string& what) const {
        fail_bundle(name_ + ": " + what + kAnew);
    }

    bool put_number(double number) {
        Value& value = place();
        value.kind = Value::Kind::number;
        value.number = number;
        return true;
    }

    bool open(Value::Kind kind) {
        Value& value = place();
        value.kind = kind;
        stack_.push_back(&value);
        return true;
    }

    /// Where the next value goes. Pointers into parents stay good: only the innermost grows.
    Value& place() {
        if (stack_.size() >= kDeepest)
            refuse("nested more than " + std::to_string(kDeepest) + " deep");
        if (stack_.empty())
            return root_;
        Value& parent = *stack_.back();
        if (parent.kind == Value::Kind::object)
            return parent.members.back().second;
        return parent.items.emplace_back();
    }

    void check_unique(const Value& object) const {
        std::vector<std::string_view> keys;
        for (const auto& [key, _] : object.members)
            keys.push_back(key);
        std::sort(keys.begin(), keys.end());
        auto twice = std::adjacent_find(keys.begin(), keys.end());
        if (twice != keys.end())
            refuse("the key " + in_quotes(*twice) + " is given twice");
    }

    const std::string& name_;
    Texts texts_;
    Value root_;
    std::vector<Value*> stack_;
};

std::string list(std::initializer_list<std::string_view> names) {
    std::string text;
    for (std::string_view name : names)
        text += (text.empty() ? "" : ", ") + std::string(name);
    return text;
}

}  // namespace

const Value* Value::find(std::string_view key) const {
    for (const auto& [name, value] : members) {
        if (name == key)
            return &value;
    }
    return nullptr;
}

Value parse_json_object(std::string_view data, const std::string& name, Texts texts) {
    Builder builder(name, texts);
    bool byte_order_mark = data.substr(0, 3) == "\xef\xbb\xbf";
    if (byte_order_mark || !nlohmann::json::sax_parse(data.begin(), data.end(), &builder))
        fail_bundle(name + " cannot be read as JSON");
    Value value = builder.take();
    if (value.kind != Value::Kind::object)
        fail_bundle(name + ": expected an object");
    return value;
}

std::string read_regular_file(const std::string& folder, const std::string& name,
                              std::size_t most_bytes) {
    const Descriptor file(folder + "/" + name);
    if (file.number() < 0 && errno == ENOENT)
        fail_bundle(name + " is missing from the bundle");
    struct stat about;
    if (file.number() < 0 || fstat(file.number(), &about) != 0)
        fail_bundle(name + " cannot be read as a regular file");
    if (!S_ISREG(about.st_mode))
        fail_bundle(name + " is not a regular file; copy the bundle anew");
    std::string data;
    char piece[1 << 16];
    for (;;) {
        const ssize_t count = file.read_some(piece, sizeof piece);
        if (count < 0)
            fail_bundle(name + " cannot be read as a regular file");
        if (count == 0)
            return data;
        data.append(piece, static_cast<std::size_t>(count));
        if (data.size() > most_bytes)
            fail_bundle(name + " is larger than " + std::to_string(most_bytes) + " bytes");
    }
}

Fields::Fields(const Value& value, std::string where) : value_(&value), where_(std::move(where)) {
    if (value.kind != Value::Kind::object)
        fail_bundle(where_ + ": expected an object");
}

void Fields::fail(std::string_view key, const std::string& what) const {
    fail_bundle(where_ + ": " + in_quotes(key) + " " + what);
}

const Value& Fields::get(std::string_view key, Value::Kind kind, const char* what) const {
    const Value* value = value_->find(key);
    if (value == nullptr || value->kind != kind)
        fail(key, std::string("must be ") + what);
    return *value;
}

void Fields::only(std::initializer_list<std::string_view> allowed) const {
    for (const auto& [key, _] : value_->members) {
        if (std::find(allowed.begin(), allowed.end(), key) == allowed.end())
            fail_bundle(where_ + ": unknown field " + in_quotes(key) +
                        "; allowed: " + list(allowed));
    }
}

const std::string& Fields::text(std::string_view key) const {
    return get(key, Value::Kind::text, "a string").text;
}

bool Fields::flag(std::string_view key) const {
    return get(key, Value::Kind::boolean, "true or false").flag;
}

std::int64_t Fields::integer(std::string_view key, std::int64_t low, std::int64_t high) const {
    std::int64_t value = get(key, Value::Kind::integer, "an integer").integer;
    if (value < low || value > high)
        fail(key, "is " + std::to_string(value) + ", allowed " + std::to_string(low) + " to " +
                      std::to_string(high));
    return value;
}

double Fields::number(std::string_view key, double low, double high) const {
    const Value* value = value_->find(key);
    bool fits = value != nullptr &&
                (value->kind == Value::Kind::integer || value->kind == Value::Kind::number) &&
                low <= value->number && value->number <= high;
    if (!fits)
        fail(key, "must be a number from " + general(low) + " to " + general(high));
    return value->number;
}

std::optional<double> Fields::optional_number(std::string_view key, double low, double high) const {
    const Value* value = value_->find(key);
    if (value == nullptr || value->kind == Value::Kind::null)
        return {};
    return number(key, low, high);
}

const std::string& Fields::choice(std::string_view key,
                                  std::initializer_list<std::string_view> allowed) const {
    const std::string& value = text(key);
    if (std::find(allowed.begin(), allowed.end(), value) == allowed.end())
        fail(key, "is " + in_quotes(value) + ", allowed: " + list(allowed));
    return value;
}

std::vector<std::string> Fields::texts(std::string_view key) const {
    std::vector<std::string> texts;
    for (const Value& item : get(key, Value::Kind::list, "a list of strings").items) {
        if (item.kind != Value::Kind::text)
            fail(key, "must be a list of strings");
        texts.push_back(item.text);
    }
    return texts;
}

std::vector<std::int64_t> Fields::integers(std::string_view key, std::int64_t low,
                                           std::int64_t high,
                                           std::optional<std::size_t> count) const {
    const Value& value = get(key, Value::Kind::list, "a list of integers");
    std::string number = count ? std::to_string(*count) + " " : "";
    if (count && value.items.size() != *count)
        fail(key, "must be a list of " + number + "integers");
    std::vector<std::int64_t> integers;
    for (const Value& item : value.items) {
        if (item.kind != Value::Kind::integer)
            fail(key, "must be a list of " + number + "integers");
        if (item.integer < low || item.integer > high)
            fail(key, "holds " + std::to_string(item.integer) + ", allowed " + std::to_string(low) +
                          " to " + std::to_string(high));
        integers.push_back(item.integer);
    }
    return integers;
}

Fields Fields::object(std::string_view key) const {
    const Value& value = get(key, Value::Kind::object, "an object");
    return {value, where_ + ": " + std::string(key)};
}

std::vector<Fields> Fields::objects(std::string_view key) const {
    std::vector<Fields> found;
    for (const Value& item : get(key, Value::Kind::list, "a list of objects").items)
        found.emplace_back(
            item, where_ + ": " + std::string(key) + "[" + std::to_string(found.size()) + "]");
    return found;
}

std::vector<std::pair<std::string, Fields>> Fields::items() const {
    std::vector<std::pair<std::string, Fields>> found;
    for (const auto& [key, value] : value_->members)
        found.emplace_back(key, Fields(value, where_ + ": " + key));
    return found;
}

}  // namespace mammofm
