// A part of a JPEG, by libjpeg-turbo: what lies beside and above it is read but not transformed, what lies below it is
// not even read.

#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <cstring>

#include <jpeglib.h>

namespace {

// The columns that smooth upsampling looks at beyond the part lie in the next block.
constexpr int kMargin = 2 * DCTSIZE;

struct Trouble {
    jpeg_error_mgr handler;
    std::jmp_buf back;
};

void give_up(j_common_ptr info) { std::longjmp(reinterpret_cast<Trouble*>(info->err)->back, 1); }

// Warnings (level -1) tell of damaged data: another decoder shall judge it.
void on_message(j_common_ptr info, int level) {
    if (level < 0) give_up(info);
}

}  // namespace

// Writes the part as rows of `channels` (1 or 3) bytes a pixel. 0 where all went well.
extern "C" int decode_part(const unsigned char* data, std::size_t size, int channels, int top, int left, int height,
                           int width, unsigned char* out) {
    jpeg_decompress_struct info;
    Trouble trouble;
    info.err = jpeg_std_error(&trouble.handler);
    trouble.handler.error_exit = give_up;
    trouble.handler.emit_message = on_message;
    if (setjmp(trouble.back)) {
        jpeg_destroy_decompress(&info);
        return 1;
    }
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, data, size);
    jpeg_read_header(&info, TRUE);
    info.out_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_start_decompress(&info);

    const int whole = info.output_width;
    const int from = left > kMargin ? left - kMargin : 0;
    const int to = left + width + kMargin < whole ? left + width + kMargin : whole;
    JDIMENSION first = from, columns = to - from;
    jpeg_crop_scanline(&info, &first, &columns);
    if (top > 0) jpeg_skip_scanlines(&info, top);
    // From the library's own pool, which is gone with it. Off any boundary: to one that is aligned it writes past the
    // cache, and reading the row back from memory would cost a fifth of the time.
    const auto owner = reinterpret_cast<j_common_ptr>(&info);
    JSAMPROW row = *info.mem->alloc_sarray(owner, JPOOL_IMAGE, info.output_width * channels + 1, 1) + 1;
    const std::size_t bytes = static_cast<std::size_t>(width) * channels;
    for (int line = 0; line < height; ++line) {
        jpeg_read_scanlines(&info, &row, 1);
        std::memcpy(out + line * bytes, row + (left - first) * channels, bytes);
    }
    jpeg_destroy_decompress(&info);
    return 0;
}
