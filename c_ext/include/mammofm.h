/*
 * mammofm.h: mammography heads on a CPU, from C and everything that can call C.
 *
 * Not a medical device. A bundle's notices (mfm_model_notice, mfm_result_notice) must be shown with
 * whatever is shown of its answers.
 *
 * Rules that hold for every function:
 * - It returns a status, and results through out-parameters, which are written only on MFM_OK.
 *   mfm_last_error() then holds one line that says what is wrong and what to do.
 * - No exception leaves the library, nothing ends the process, no signal handler is installed, no
 *   file is written, no connection is opened.
 * - Text is UTF-8 and ends with NUL. Text that comes out belongs to the handle it came from and
 *   lives as long as that; text that goes in is read during the call only.
 * - `struct_size` is the first field of every struct and set by the caller to sizeof(the struct).
 *   A program that was compiled against an older header goes on working: new fields are only ever
 *   added at the end, and the library touches no more than the caller knows. What it does not know
 *   counts as zero, which always means "the default". MFM_INIT(x) clears a struct and sets it.
 * - Every function may be called from any thread. Handles may be shared: runs on one model take
 *   turns, results never change. A handle is destroyed once, by a thread that nobody races.
 *
 * Coordinates are continuous pixel-edge coordinates of the image as it was given: x is the column,
 * y the row, the top-left corner of the top-left pixel is (0, 0), as in DICOM PS3.3 C.18.6.
 */
#ifndef MAMMOFM_H
#define MAMMOFM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#    define MFM_API __attribute__((visibility("default")))
#else
#    define MFM_API
#endif

/* The interface that this header describes; mfm_abi_version() is what the library offers. Rises
 * only when something that works would stop working. */
#define MFM_ABI_VERSION 1

#define MFM_INIT(x) (memset(&(x), 0, sizeof(x)), (void)((x).struct_size = sizeof(x)))

/* ---------------------------------------------------------------- failures */

typedef int32_t mfm_status;
enum {
    MFM_OK = 0,
    MFM_ERROR_INTERNAL = 1,  /* a defect of this library, or of OpenVINO */
    MFM_ERROR_USAGE = 2,     /* the call itself is wrong: a null pointer, an option out of range */
    MFM_ERROR_STUDY = 3,     /* none of the views can be used */
    MFM_ERROR_BUNDLE = 4,    /* missing, altered, malformed, or made for another version */
    MFM_ERROR_CANCELLED = 5, /* the caller's own `cancelled` said so */
    MFM_ERROR_MEMORY = 6,    /* not enough */
    MFM_ERROR_KERNEL = 7,    /* MAMMOFM_ISA asks for kernels that this CPU or build lacks */
    MFM_ERROR_NOT_FOUND = 8, /* no item of this number, or the head did not answer */
    MFM_ERROR_UNSUPPORTED =
        9 /* valid, and beyond this library, which says so instead of guessing */
};

/* Why the last failed call of this thread failed; "" if none has. Valid until this thread's next
 * call. Never holds pixels, paths of images or anything that identifies a patient. */
MFM_API const char* mfm_last_error(void);

/* "MFM_OK", "MFM_ERROR_USAGE", ...; "unknown status" for any other number. */
MFM_API const char* mfm_status_name(mfm_status status);

/* ---------------------------------------------------------------- versions */

MFM_API uint32_t mfm_abi_version(void);
MFM_API const char* mfm_version(void);          /* of mammofm-lite */
MFM_API const char* mfm_openvino_version(void); /* of the library that is loaded */

/* Name of the instruction set that the kernels use in this process. */
MFM_API mfm_status mfm_instruction_set(const char** name);

/* ---------------------------------------------------------------- words */

/* Views, heads and sides in their fixed order. */
typedef int32_t mfm_view_name;
enum { MFM_L_CC = 0, MFM_L_MLO = 1, MFM_R_CC = 2, MFM_R_MLO = 3, MFM_VIEW_COUNT = 4 };

typedef int32_t mfm_laterality;
enum { MFM_LEFT = 1, MFM_RIGHT = 2 };

typedef int32_t mfm_projection;
enum { MFM_CC = 1, MFM_MLO = 2 };

typedef int32_t mfm_photometric;
enum { MFM_MONOCHROME1 = 1, MFM_MONOCHROME2 = 2 }; /* low values bright; low values dark */

typedef int32_t mfm_head;
enum {
    MFM_DIAGNOSIS = 0,
    MFM_LOCALIZATION = 1,
    MFM_PROGNOSIS = 2,
    MFM_REPORT = 3,
    MFM_HEAD_COUNT = 4
};
#define MFM_HEAD_BIT(head) (1u << (head))

/* ---------------------------------------------------------------- callbacks */

/* A stage begins (`seconds` is negative) or has ended. `stage` is prepare, encode, compile or a
 * head's name, `detail` a view or a file of the bundle. Called by the thread that called the
 * library, and by no other. */
typedef struct mfm_progress {
    size_t struct_size;
    const char* stage;
    const char* detail;
    double seconds;
} mfm_progress;
typedef void (*mfm_progress_callback)(void* user, const mfm_progress* progress);

/* Asked between stages and between the tokens of a report: not 0 ends the call with
 * MFM_ERROR_CANCELLED. The model can be used again. */
typedef int (*mfm_cancelled_callback)(void* user);

typedef int32_t mfm_log_level;
enum { MFM_LOG_INFO = 1, MFM_LOG_WARNING = 2 };

/* One line per event worth a log: a bundle was opened, a graph compiled, a view refused. Nothing
 * that identifies a patient. The library writes nowhere else. */
typedef void (*mfm_log_callback)(void* user, mfm_log_level level, const char* line);

/* A callback must return: no exception, no longjmp through the library; and it must not call the
 * library with the model that is running, whose turn it would wait for. */

/* ---------------------------------------------------------------- models */

typedef struct mfm_model mfm_model;

typedef struct mfm_model_options {
    size_t struct_size;
    int32_t threads;           /* CPU threads of one study, 1 to 1024; 0: all of this process */
    const char* bundle_sha256; /* NULL, or the only bundle to be accepted: 64 hexadecimal digits of
                                  the SHA-256 of its bundle.json, which holds those of all files */
    mfm_log_callback log;      /* NULL: no log */
    void* log_user;
    int32_t no_tiled; /* not 0: INT8 encoders run by OpenVINO's own kernels alone, not by ours where
                         those are faster; the answers differ by rounding */
} mfm_model_options;

/* Open a bundle directory and verify every file of it. Graphs are compiled by the first run that
 * needs them, or by mfm_model_compile. `options` may be NULL. */
MFM_API mfm_status mfm_model_open(const char* path, const mfm_model_options* options,
                                  mfm_model** model);

/* NULL is allowed, here and in every other destroy. */
MFM_API void mfm_model_destroy(mfm_model* model);

typedef struct mfm_model_info {
    size_t struct_size;
    const char* name;
    const char* version;
    const char* sha256;
    const char* precision;
    const char* intended_use;
    const char* weights_licence;
    int32_t weights_synthetic; /* not 0: every number, mark and sentence is meaningless */
    uint32_t heads;            /* MFM_HEAD_BIT of every head that the bundle has */
    int32_t threads;
    int32_t height; /* of the prepared view, in pixels */
    int32_t width;
    size_t notice_count;
} mfm_model_info;
MFM_API mfm_status mfm_model_get_info(const mfm_model* model, mfm_model_info* info);

/* Lines that must stand on every output made with this bundle. */
MFM_API mfm_status mfm_model_notice(const mfm_model* model, size_t index, const char** line);

typedef struct mfm_run_options {
    size_t struct_size;
    uint32_t heads; /* MFM_HEAD_BIT of those asked for; 0: all that the bundle has */
    mfm_progress_callback progress;
    mfm_cancelled_callback cancelled;
    void* user; /* for both callbacks */
} mfm_run_options;

/* Compile now what the heads of `options` (NULL: all) need, so that the first study is as quick as
 * the next. */
MFM_API mfm_status mfm_model_compile(mfm_model* model, const mfm_run_options* options);

/* ---------------------------------------------------------------- studies */

/* One mammogram: stored pixel values as DICOM For Presentation images hold them, decoded, one grey
 * channel, in the machine's byte order. No VOI LUT is to be applied. */
typedef struct mfm_view {
    size_t struct_size;
    const void* pixels;
    int32_t rows;
    int32_t columns;
    size_t stride_bytes;    /* from one row to the next; 0: rows follow each other without a gap */
    int32_t bits_allocated; /* 8 or 16: of one pixel in memory */
    int32_t bits_stored;    /* 8 to bits_allocated; 0: bits_allocated. A value beyond is refused */
    int32_t is_signed;      /* Pixel Representation: 0 unsigned, 1 two's complement */
    mfm_laterality laterality;
    mfm_projection projection;
    mfm_photometric photometric;
    double rescale_slope; /* the linear Modality LUT; a slope of 0 stands for 1 */
    double rescale_intercept;
    double row_spacing_mm; /* of rows, then of columns, at the breast, to 100; both 0: unknown */
    double column_spacing_mm;
    const char* sop_instance_uid; /* NULL: unknown; stands in the result, so that views can be told
                                     apart */
    int32_t has_padding;          /* not 0: stored values from padding_low to padding_high, both
                                     included, are no image (Pixel Padding Value and Range Limit) */
    int32_t padding_low;
    int32_t padding_high;
    const uint8_t* hidden;      /* NULL, or one byte per pixel: not 0 behind the display shutter */
    size_t hidden_stride_bytes; /* as stride_bytes */
} mfm_view;

/* Up to four views, each of another kind; the pixels are read during the call only. */
typedef struct mfm_study {
    size_t struct_size;
    const char* study_instance_uid; /* NULL: unknown; stands in the result */
    const mfm_view* const* views;
    size_t view_count; /* 1 to 4 */
} mfm_study;

typedef struct mfm_result mfm_result;

/* Answer one study. A view that cannot be used is left out and told in the result; MFM_ERROR_STUDY
 * if that leaves none. Of a head that cannot answer the result says why. `options` may be NULL. */
MFM_API mfm_status mfm_model_run(mfm_model* model, const mfm_study* study,
                                 const mfm_run_options* options, mfm_result** result);

MFM_API void mfm_result_destroy(mfm_result* result);

/* ---------------------------------------------------------------- results */

/* The whole result as JSON, the same that the Python runtime writes (result-1.schema.json);
 * `length` without the NUL, may be NULL. */
MFM_API mfm_status mfm_result_json(const mfm_result* result, const char** text, size_t* length);

typedef struct mfm_summary {
    size_t struct_size;
    int32_t recall;       /* 1 suggested, 0 not suggested, -1 no answering head says */
    uint32_t views_used;  /* bit 1 << view */
    uint32_t heads_asked; /* MFM_HEAD_BIT */
    uint32_t heads_answered;
    size_t notice_count;
    size_t recall_basis_count;
} mfm_summary;
MFM_API mfm_status mfm_result_summary(const mfm_result* result, mfm_summary* summary);

/* Lines that must be shown with the result. */
MFM_API mfm_status mfm_result_notice(const mfm_result* result, size_t index, const char** line);

/* What each deciding head said. */
MFM_API mfm_status mfm_result_recall_basis(const mfm_result* result, size_t index,
                                           const char** line);

typedef struct mfm_head_outcome {
    size_t struct_size;
    int32_t answered;
    const char* reason; /* NULL if answered, else not_in_bundle or missing_views */
    const char* detail;
} mfm_head_outcome;
MFM_API mfm_status mfm_result_head(const mfm_result* result, mfm_head head,
                                   mfm_head_outcome* outcome);

typedef struct mfm_box {
    double x1, y1, x2, y2;
} mfm_box;

/* -------------------- diagnosis */

typedef int32_t mfm_scope;
enum {
    MFM_SCOPE_STUDY = 0,
    MFM_SCOPE_LEFT_BREAST = 1,
    MFM_SCOPE_RIGHT_BREAST = 2,
    MFM_SCOPE_L_CC = 3,
    MFM_SCOPE_L_MLO = 4,
    MFM_SCOPE_R_CC = 5,
    MFM_SCOPE_R_MLO = 6
};

typedef struct mfm_score {
    size_t struct_size;
    const char* label;
    const char*
        value;        /* the likeliest class; of a binary label yes or no, NULL without threshold */
    double threshold; /* negative: none */
    size_t probability_count;
} mfm_score;
MFM_API mfm_status mfm_result_score_count(const mfm_result* result, mfm_scope scope, size_t* count);
MFM_API mfm_status mfm_result_score(const mfm_result* result, mfm_scope scope, size_t index,
                                    mfm_score* score);

/* Probability number `probability` of score `index`, and its class: "yes" of a binary label. */
MFM_API mfm_status mfm_result_probability(const mfm_result* result, mfm_scope scope, size_t index,
                                          size_t probability, const char** name, double* value);

/* -------------------- localization */

typedef struct mfm_mark {
    size_t struct_size;
    mfm_view_name view;
    const char* label;
    double score;
    mfm_box box_px;
    mfm_box box_mm; /* from the image's top-left corner; all 0 where the spacing is unknown */
    int32_t has_mm;
    double threshold; /* the operating point of its label: no mark lies below */
} mfm_mark;
MFM_API mfm_status mfm_result_mark_count(const mfm_result* result, size_t* count);
MFM_API mfm_status mfm_result_mark(const mfm_result* result, size_t index, mfm_mark* mark);

/* -------------------- prognosis */

typedef struct mfm_year {
    size_t struct_size;
    int32_t year;
    double score; /* what the model computes for this year alone */
    double risk;  /* the running maximum: never decreases */
} mfm_year;
MFM_API mfm_status mfm_result_year_count(const mfm_result* result, size_t* count);
MFM_API mfm_status mfm_result_year(const mfm_result* result, size_t index, mfm_year* year);

/* Where left and right differ most: the same window of the model frame in both images. */
typedef struct mfm_peak {
    size_t struct_size;
    int32_t year;
    mfm_projection projection;
    mfm_box left_box_px;
    mfm_box right_box_px;
} mfm_peak;
MFM_API mfm_status mfm_result_peak_count(const mfm_result* result, size_t* count);
MFM_API mfm_status mfm_result_peak(const mfm_result* result, size_t index, mfm_peak* peak);

/* -------------------- report */

typedef struct mfm_report {
    size_t struct_size;
    const char* text; /* title and text of every section, one per line */
    const char* lexicon_name;
    const char* lexicon_edition;
    const char* composition;
    int32_t recall;
    const char* birads_estimate; /* NULL where missing views leave it open; never an assessment */
    const char* management;
    size_t section_count;
    size_t finding_count;
    size_t flag_count;
} mfm_report;
MFM_API mfm_status mfm_result_report(const mfm_result* result, mfm_report* report);

typedef struct mfm_report_section {
    size_t struct_size;
    const char* name;
    const char* title;
    const char* text;
} mfm_report_section;
MFM_API mfm_status mfm_result_report_section(const mfm_result* result, size_t index,
                                             mfm_report_section* section);

/* "findings", "no_findings" or "not_imaged". */
MFM_API mfm_status mfm_result_report_breast(const mfm_result* result, mfm_laterality side,
                                            const char** status);

typedef struct mfm_report_finding {
    size_t struct_size;
    mfm_laterality side;
    const char* kind;
    size_t descriptor_count;
} mfm_report_finding;
MFM_API mfm_status mfm_result_report_finding(const mfm_result* result, size_t index,
                                             mfm_report_finding* finding);
MFM_API mfm_status mfm_result_report_descriptor(const mfm_result* result, size_t index,
                                                size_t descriptor, const char** name,
                                                const char** value);

/* A disagreement between the report and another head: a code, and a sentence for a person. */
MFM_API mfm_status mfm_result_report_flag(const mfm_result* result, size_t index, const char** code,
                                          const char** detail);

/* -------------------- views */

typedef struct mfm_view_result {
    size_t struct_size;
    mfm_view_name view;
    const char* sop_instance_uid;
    int32_t rows;
    int32_t columns;
    int32_t mirrored;       /* the prepared view is flipped left to right */
    size_t deviation_count; /* 0 where every pixel step was the reference's */
} mfm_view_result;

/* MFM_ERROR_NOT_FOUND for a view that was not given or not used. */
MFM_API mfm_status mfm_result_view(const mfm_result* result, mfm_view_name view,
                                   mfm_view_result* info);
MFM_API mfm_status mfm_result_view_deviation(const mfm_result* result, mfm_view_name view,
                                             size_t index, const char** code);

#ifdef __cplusplus
}
#endif

#endif
