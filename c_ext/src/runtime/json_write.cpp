#include "json_write.hpp"

#include <charconv>
#include <cmath>

#include "failure.hpp"

namespace mammofm {

std::string shortest(double value) {
    if (!std::isfinite(value))
        throw Failure(MFM_ERROR_INTERNAL, "a result holds a number that is not finite");
    char buffer[40];
    auto [end, _] =
        std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
    std::string_view written(buffer, static_cast<std::size_t>(end - buffer));
    const std::size_t mark = written.find('e');
    int exponent = 0;
    const char* digits_of_exponent = written.data() + mark + (written[mark + 1] == '+' ? 2 : 1);
    std::from_chars(digits_of_exponent, end, exponent);
    const bool plain = exponent >= -4 && exponent < 16;
    if (!plain)
        return std::string(written);  // two digits of exponent at least, in both languages
    auto [stop, __] =
        std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed);
    std::string text(buffer, stop);
    return text.find('.') == std::string::npos ? text + ".0" : text;
}

void JsonWriter::line() {
    out_ += '\n';
    out_.append(2 * depth_, ' ');
}

/// Before every value and key: the comma and the new line, except after a key.
void JsonWriter::item() {
    if (after_key_) {
        after_key_ = false;
        return;
    }
    if (depth_ == 0)
        return;
    if (!empty_)
        out_ += ',';
    line();
    empty_ = false;
}

void JsonWriter::open(char bracket) {
    item();
    out_ += bracket;
    ++depth_;
    empty_ = true;
}

void JsonWriter::close(char bracket) {
    --depth_;
    if (!empty_)
        line();
    out_ += bracket;
    empty_ = false;
}

void JsonWriter::quote(std::string_view value) {
    static constexpr char kDigits[] = "0123456789abcdef";
    out_ += '"';
    for (char c : value) {
        switch (c) {
            case '"':
                out_ += "\\\"";
                break;
            case '\\':
                out_ += "\\\\";
                break;
            case '\n':
                out_ += "\\n";
                break;
            case '\r':
                out_ += "\\r";
                break;
            case '\t':
                out_ += "\\t";
                break;
            case '\b':
                out_ += "\\b";
                break;
            case '\f':
                out_ += "\\f";
                break;
            default:
                if (static_cast<unsigned char>(c) >= 0x20) {
                    out_ += c;
                } else {
                    out_ += "\\u00";
                    out_ += kDigits[c >> 4];
                    out_ += kDigits[c & 15];
                }
        }
    }
    out_ += '"';
}

void JsonWriter::key(std::string_view name) {
    item();
    quote(name);
    out_ += ": ";
    after_key_ = true;
}

void JsonWriter::text(std::string_view value) {
    item();
    quote(value);
}

void JsonWriter::number(double value) {
    item();
    out_ += shortest(value);
}

void JsonWriter::integer(std::int64_t value) {
    item();
    out_ += std::to_string(value);
}

void JsonWriter::flag(bool value) {
    item();
    out_ += value ? "true" : "false";
}

void JsonWriter::null() {
    item();
    out_ += "null";
}

}  // namespace mammofm
