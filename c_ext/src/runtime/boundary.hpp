// The border between C and C++: statuses for exceptions, and structs that may be older or newer.

#pragma once

#include <cstddef>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <type_traits>

#include "failure.hpp"

namespace mammofm {

/// Keep the line for mfm_last_error() of this thread; cut if it is absurdly long.
void set_last_error(const char* line) noexcept;
const char* last_error() noexcept;

/// Run the body of a C function: no exception leaves it.
template <typename Body>
mfm_status guarded(Body body) noexcept {
    try {
        body();
        return MFM_OK;
    } catch (const Failure& failure) {
        set_last_error(failure.what());
        return failure.status();
    } catch (const std::bad_alloc&) {
        set_last_error("not enough memory for this study and bundle");
        return MFM_ERROR_MEMORY;
    } catch (const std::exception&) {
        // Its text may hold pages, places in sources, and paths.
        set_last_error("a defect of this library or of OpenVINO; please report it");
        return MFM_ERROR_INTERNAL;
    } catch (...) {
        set_last_error("a callback threw something; it must return");
        return MFM_ERROR_INTERNAL;
    }
}

template <typename T>
void require(const T* pointer, const char* name) {
    if (pointer == nullptr)
        fail_usage(std::string(name) + " is NULL");
}

void check_struct_size(std::size_t size, const char* name);

/// The caller's struct as this library knows it. A field that is added must lie beyond the size
/// that the struct had before, its tail padding included: nobody says what older callers have
/// there. What an older caller does not have is zero, and what a newer one sets and this library
/// does not know is refused.
template <typename T>
T read_struct(const T* given, const char* name) {
    static_assert(std::is_trivially_copyable_v<T>);
    check_struct_size(given->struct_size, name);
    T known;
    std::memset(static_cast<void*>(&known), 0, sizeof known);
    const std::size_t size = given->struct_size;
    std::memcpy(static_cast<void*>(&known), given, size < sizeof known ? size : sizeof known);
    const auto* bytes = reinterpret_cast<const unsigned char*>(given);
    for (std::size_t i = sizeof known; i < size; ++i) {
        if (bytes[i] != 0)
            fail_usage(std::string(name) +
                       " sets a field that this library does not know; update libmammofm");
    }
    return known;
}

/// Fill as much of the caller's struct as it has.
template <typename T>
void write_struct(T* out, T filled, const char* name) {
    require(out, name);
    const std::size_t size = out->struct_size;
    check_struct_size(size, name);
    filled.struct_size = size;
    std::memcpy(static_cast<void*>(out), &filled, size < sizeof filled ? size : sizeof filled);
    if (size > sizeof filled)
        std::memset(reinterpret_cast<unsigned char*>(out) + sizeof filled, 0, size - sizeof filled);
}

}  // namespace mammofm
