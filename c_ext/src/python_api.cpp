// What the Python runtime calls: the pixel steps and the geometry, which are written once, here.
//
// Called by mammofm_lite/native.py alone, which is built and installed together with it; no other
// program may rely on these functions. mammofm.h is for them.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>

#include "runtime/failure.hpp"
#include "runtime/geometry.hpp"
#include "runtime/prepare.hpp"
#include "runtime/resize.hpp"

#define MAMMOFM_PYTHON extern "C" __attribute__((visibility("default")))

using namespace mammofm;

/// The fields of native.py's struct of this name.
struct mammofm_preparation {
    const std::uint8_t* pixels;
    std::int64_t rows, columns, stride_bytes;
    std::int32_t bytes, is_signed;
    std::int32_t photometric, has_padding;
    std::int32_t padding_low, padding_high;
    double rescale_slope, rescale_intercept;
    const std::uint8_t* hidden;  // rows without a gap, or null
    std::int64_t height, width, border_px, background_threshold;
    std::int32_t mirrored;
    // Filled: room for as many pairs as there are rows and columns is the caller's part.
    std::int32_t masked;  // 1 padding, 2 shutter
    std::uint8_t* image;  // [height, width]
    std::int64_t* row_runs;
    std::int64_t* column_runs;
    std::int64_t row_run_count, column_run_count;
    char error[512];
};

namespace {

std::int64_t write_runs(const Runs& runs, std::int64_t* out) {
    for (auto [start, stop] : runs) {
        *out++ = start;
        *out++ = stop;
    }
    return static_cast<std::int64_t>(runs.size());
}

Runs read_runs(const std::int64_t* edges, std::int64_t count) {
    Runs runs;
    for (std::int64_t i = 0; i < count; ++i)
        runs.emplace_back(edges[2 * i], edges[2 * i + 1]);
    return runs;
}

ViewInput input_of(const mammofm_preparation& job) {
    ViewInput input = {};
    input.stored = {job.pixels,  job.rows,
                    job.columns, static_cast<std::size_t>(job.stride_bytes),
                    job.bytes,   job.is_signed != 0};
    input.view = job.mirrored != 0 ? MFM_R_CC : MFM_L_CC;
    input.photometric = job.photometric;
    input.rescale_slope = job.rescale_slope;
    input.rescale_intercept = job.rescale_intercept;
    if (job.has_padding != 0)
        input.padding = {job.padding_low, job.padding_high};
    input.hidden = job.hidden;
    input.hidden_stride_bytes = static_cast<std::size_t>(job.columns);
    return input;
}

void prepare(mammofm_preparation& job) {
    const PreparedView view = prepare_view(
        input_of(job), {job.height, job.width, job.border_px,
                        static_cast<int>(job.background_threshold), job.mirrored != 0});
    std::copy(view.image.pixels.begin(), view.image.pixels.end(), job.image);
    job.row_run_count = write_runs(view.geometry.row_runs, job.row_runs);
    job.column_run_count = write_runs(view.geometry.column_runs, job.column_runs);
    for (const std::string& code : view.deviations)
        job.masked |= code == "pixel_padding_masked" ? 1 : 2;
}

GreyImage grey_image(const std::uint8_t* pixels, std::int64_t rows, std::int64_t columns) {
    GreyImage image(rows, columns);
    std::copy(pixels, pixels + image.pixels.size(), image.pixels.begin());
    return image;
}

/// MFM_OK, or a status where something failed; there is no line to it.
template <typename Work>
std::int32_t attempt(Work work) noexcept {
    try {
        work();
        return MFM_OK;
    } catch (...) {
        return MFM_ERROR_MEMORY;
    }
}

}  // namespace

/// MFM_OK, or the status of a failure whose line is then in `error`.
MAMMOFM_PYTHON std::int32_t mammofm_prepare(mammofm_preparation* job) {
    try {
        prepare(*job);
        return MFM_OK;
    } catch (const Failure& failure) {
        std::strncpy(job->error, failure.what(), sizeof job->error - 1);
        return failure.status();
    } catch (const std::exception&) {
        return MFM_ERROR_MEMORY;
    }
}

MAMMOFM_PYTHON std::int32_t mammofm_crop_runs(const std::uint8_t* pixels, std::int64_t rows,
                                              std::int64_t columns, std::int32_t threshold,
                                              std::int64_t* row_runs, std::int64_t* column_runs,
                                              std::int64_t* counts) {
    return attempt([&] {
        auto [kept_rows, kept_columns] = crop_runs(grey_image(pixels, rows, columns), threshold);
        counts[0] = write_runs(kept_rows, row_runs);
        counts[1] = write_runs(kept_columns, column_runs);
    });
}

MAMMOFM_PYTHON std::int32_t mammofm_resize_area(const std::uint8_t* pixels, std::int64_t rows,
                                                std::int64_t columns, std::int64_t height,
                                                std::int64_t width, std::uint8_t* out) {
    return attempt([&] {
        const GreyImage image = resize_area(grey_image(pixels, rows, columns), height, width);
        std::copy(image.pixels.begin(), image.pixels.end(), out);
    });
}

/// Coordinates along one axis; `edge` is 0 point, 1 low, 2 high, or -1 for original to prepared.
MAMMOFM_PYTHON std::int32_t mammofm_along_axis(const std::int64_t* runs, std::int64_t count,
                                               std::int64_t model_size, std::int32_t mirrored,
                                               std::int32_t edge, const double* values,
                                               std::int64_t size, double* out) {
    return attempt([&] {
        const Runs kept = read_runs(runs, count);
        const Axis axis(kept, model_size, mirrored != 0);
        for (std::int64_t i = 0; i < size; ++i)
            out[i] = edge < 0 ? axis.to_model(values[i])
                              : axis.to_original(values[i], static_cast<Edge>(edge));
    });
}
