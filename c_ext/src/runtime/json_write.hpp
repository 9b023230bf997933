// JSON as Python's json.dumps(indent=2, ensure_ascii=False) writes it, number by number.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mammofm {

/// As Python's repr(float): the shortest digits that read back to the same number.
std::string shortest(double value);

/// Writes one document; objects and lists are opened and closed in pairs.
class JsonWriter {
  public:
    void open(char bracket);  // '{' or '['
    void close(char bracket);
    void key(std::string_view name);
    void text(std::string_view value);
    void number(double value);
    void integer(std::int64_t value);
    void flag(bool value);
    void null();
    /// The document, with a newline at its end.
    std::string take() { return std::move(out_) + "\n"; }

  private:
    void item();
    void line();
    void quote(std::string_view value);

    std::string out_;
    std::size_t depth_ = 0;
    bool empty_ = true;  // nothing yet in the innermost bracket
    bool after_key_ = false;
};

}  // namespace mammofm
