#include "boundary.hpp"

namespace mammofm {
namespace {

constexpr std::size_t kLongestLine = 1000;
constexpr std::size_t kLargestStruct = 4096;

/// No constructor and no destructor: nothing to do when a thread begins or ends.
thread_local char error_line[kLongestLine + 1];

}  // namespace

void set_last_error(const char* line) noexcept {
    std::size_t length = strnlen(line, kLongestLine);
    if (length == kLongestLine) {  // not in the middle of a character
        while (length > 0 && (static_cast<unsigned char>(line[length]) & 0xc0) == 0x80)
            --length;
    }
    std::memcpy(error_line, line, length);
    error_line[length] = '\0';
}

const char* last_error() noexcept {
    return error_line;
}

void check_struct_size(std::size_t size, const char* name) {
    if (size < sizeof(std::size_t) || size > kLargestStruct)
        fail_usage(std::string(name) + ": struct_size is " + std::to_string(size) +
                   "; set it to sizeof of the struct (MFM_INIT)");
}

}  // namespace mammofm
