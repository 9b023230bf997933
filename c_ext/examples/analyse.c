/* Answer one study from C: raw pixels in, the result's JSON on stdout, what happens on stderr.
 *
 *   gcc analyse.c $(mammofm-lite config --cflags --libs) -o analyse
 *   ./analyse BUNDLE VIEW ...
 *
 * A VIEW is NAME:ROWS:COLUMNS:PHOTOMETRIC:ROW_MM:COLUMN_MM:FILE, such as
 * L-CC:3328:2560:MONOCHROME2:0.07:0.07:l_cc.raw; FILE holds 16-bit pixels in this machine's byte
 * order, row after row. A spacing of 0 is unknown.
 */
#include <mammofm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void on_progress(void* user, const mfm_progress* progress) {
    (void)user;
    if (progress->seconds >= 0)
        fprintf(stderr, "%s %s: %.3f s\n", progress->stage, progress->detail, progress->seconds);
}

static int failed(const char* what, mfm_status status) {
    fprintf(stderr, "%s: %s: %s\n", what, mfm_status_name(status), mfm_last_error());
    return (int)status;
}

static void* read_file(const char* path, size_t size) {
    FILE* file = fopen(path, "rb");
    void* data = malloc(size);
    if (file == NULL || data == NULL || fread(data, 1, size, file) != size) {
        fprintf(stderr, "cannot read %lu bytes of pixels\n", (unsigned long)size);
        exit(MFM_ERROR_USAGE);
    }
    fclose(file);
    return data;
}

/* The pixels belong to the caller, here until the program ends. */
static void read_view(const char* text, mfm_view* view) {
    char side, projection[4], photometric[12], path[4096];
    MFM_INIT(*view);
    if (sscanf(text, "%c-%3[A-Z]:%d:%d:%11[A-Z0-9]:%lf:%lf:%4095s", &side, projection, &view->rows,
               &view->columns, photometric, &view->row_spacing_mm, &view->column_spacing_mm,
               path) != 8) {
        fprintf(stderr, "not a view: %s\n", text);
        exit(MFM_ERROR_USAGE);
    }
    view->laterality = side == 'L' ? MFM_LEFT : MFM_RIGHT;
    view->projection = strcmp(projection, "CC") == 0 ? MFM_CC : MFM_MLO;
    view->photometric = strcmp(photometric, "MONOCHROME1") == 0 ? MFM_MONOCHROME1 : MFM_MONOCHROME2;
    view->bits_allocated = 16;
    view->pixels = read_file(path, (size_t)view->rows * (size_t)view->columns * 2);
}

static void print_marks(const mfm_result* result) {
    size_t count = 0;
    if (mfm_result_mark_count(result, &count) != MFM_OK)
        return; /* the head did not answer: mfm_result_head says why */
    for (size_t i = 0; i < count; ++i) {
        mfm_mark mark;
        MFM_INIT(mark);
        mfm_result_mark(result, i, &mark);
        fprintf(stderr, "mark: %s, score %.2f, x %.0f to %.0f, y %.0f to %.0f\n", mark.label,
                mark.score, mark.box_px.x1, mark.box_px.x2, mark.box_px.y1, mark.box_px.y2);
    }
}

static void print_result(const mfm_result* result) {
    mfm_summary summary;
    mfm_report report;
    const char* text = NULL;
    MFM_INIT(summary);
    MFM_INIT(report);
    mfm_result_summary(result, &summary);
    for (size_t i = 0; i < summary.notice_count; ++i) { /* these must be shown */
        mfm_result_notice(result, i, &text);
        fprintf(stderr, "%s\n", text);
    }
    fprintf(stderr, "recall: %d\n", summary.recall);
    print_marks(result);
    if (mfm_result_report(result, &report) == MFM_OK)
        fprintf(stderr, "%s\n", report.text);
    mfm_result_json(result, &text, NULL);
    fputs(text, stdout);
}

int main(int count, char** arguments) {
    mfm_model* model = NULL;
    mfm_result* result = NULL;
    mfm_view views[4];
    const mfm_view* pointers[4];
    mfm_study study;
    mfm_run_options options;
    mfm_status status;

    if (count < 3 || count > 6) {
        fprintf(stderr, "usage: analyse BUNDLE VIEW ...\n");
        return MFM_ERROR_USAGE;
    }
    if (mfm_abi_version() != MFM_ABI_VERSION) {
        fprintf(stderr, "libmammofm has another ABI than this program\n");
        return MFM_ERROR_USAGE;
    }
    status = mfm_model_open(arguments[1], NULL, &model);
    if (status != MFM_OK)
        return failed("the bundle", status);
    MFM_INIT(study);
    MFM_INIT(options);
    options.progress = on_progress;
    for (int i = 2; i < count; ++i) {
        read_view(arguments[i], &views[i - 2]);
        pointers[i - 2] = &views[i - 2];
    }
    study.views = pointers;
    study.view_count = (size_t)(count - 2);
    status = mfm_model_run(model, &study, &options, &result);
    if (status == MFM_OK)
        print_result(result);
    else
        failed("the study", status);
    for (int i = 2; i < count; ++i)
        free((void*)views[i - 2].pixels);
    mfm_result_destroy(result);
    mfm_model_destroy(model);
    return (int)status;
}
