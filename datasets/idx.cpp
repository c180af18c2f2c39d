#include "datasets/idx.h"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "core/base/error.h"

namespace qat::datasets {
namespace {

constexpr uint64_t kMaxValues = uint64_t{1} << 32;
constexpr uint64_t kMaxDeflateRatio = 1032;  // zlib's technical notes: no deflate stream expands further
constexpr size_t kFirstChunk = size_t{1} << 20;

// zlib's gz functions pass a file that is not gzip through as it is.
class GzFile {
 public:
  explicit GzFile(const std::string& path) : path_(path) {
    errno = 0;
    file_.reset(gzopen(path.c_str(), "rb"));
    QAT_CHECK_AS(FileError, file_, "{}: cannot open: {}", path, errno != 0 ? std::strerror(errno) : "out of memory");
  }

  // Bytes read, fewer than `size` only at the end of the data.
  size_t read(uint8_t* out, size_t size) {
    errno = 0;
    const int count = gzread(file_.get(), out, static_cast<unsigned>(size));
    int code = Z_OK;
    const char* text = gzerror(file_.get(), &code);
    QAT_CHECK_AS(FileError, count >= 0, "{}: cannot read: {}", path_,
                 code == Z_ERRNO ? std::strerror(errno) : fmt::format("damaged gzip data ({})", text));
    QAT_CHECK_AS(FileError, code != Z_BUF_ERROR,
                 "{}: the gzip data is truncated: the file ends inside the compressed stream; fetch it again", path_);
    return static_cast<size_t>(count);
  }

 private:
  struct Close {
    void operator()(gzFile file) const { gzclose(file); }
  };
  std::string path_;
  std::unique_ptr<gzFile_s, Close> file_;
};

std::string shape_text(const std::vector<int64_t>& dims) { return fmt::format("[{}]", fmt::join(dims, ", ")); }

// Size of a regular file, or "unknown" as the largest number for a pipe or the like.
uint64_t file_size(const std::string& path) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  return error ? kMaxValues : size;
}

}  // namespace

IdxArray read_idx(const std::string& path, int64_t rank) {
  QAT_CHECK(rank >= 1 && rank <= 255, "read_idx: expected a rank of 1 to 255, found {}", rank);
  GzFile file(path);

  uint8_t magic[4] = {};
  const size_t found = file.read(magic, sizeof(magic));
  QAT_CHECK_AS(FileError, found == sizeof(magic), "{}: expected an IDX file, found only {} bytes", path, found);
  QAT_CHECK_AS(FileError, magic[0] == 0 && magic[1] == 0,
               "{}: expected an IDX file (first bytes 00 00), found {:02x} {:02x}", path, magic[0], magic[1]);
  QAT_CHECK_AS(FileError, magic[2] == 0x08, "{}: expected IDX values of type 0x08 (unsigned byte), found 0x{:02x}",
               path, magic[2]);
  QAT_CHECK_AS(FileError, magic[3] == rank, "{}: expected an IDX array of {} dimension(s), found {}", path, rank,
               magic[3]);

  IdxArray array;
  std::vector<uint8_t> header(static_cast<size_t>(rank) * 4);
  QAT_CHECK_AS(FileError, file.read(header.data(), header.size()) == header.size(),
               "{}: truncated: the file ends inside its header of {} bytes", path, 4 + header.size());
  for (size_t i = 0; i < header.size(); i += 4) {
    array.dims.push_back(int64_t{header[i]} << 24 | int64_t{header[i + 1]} << 16 | int64_t{header[i + 2]} << 8 |
                         int64_t{header[i + 3]});
  }

  uint64_t declared = 1;
  const uint64_t possible = std::min(kMaxValues, file_size(path) * kMaxDeflateRatio);
  for (const int64_t dim : array.dims) {
    QAT_CHECK_AS(FileError, dim > 0, "{}: the header declares an empty array {}", path, shape_text(array.dims));
    // possible <= 2^32 and dim < 2^32, so the product does not overflow.
    declared *= static_cast<uint64_t>(dim);
    QAT_CHECK_AS(FileError, declared <= possible,
                 "{}: the header declares {} values, more than a file of this size can hold; it is damaged or not IDX",
                 path, shape_text(array.dims));
  }

  // Grown as bytes arrive: a header that lies costs no memory.
  size_t filled = 0;
  while (filled < declared) {
    const size_t step = std::min<size_t>({declared - filled, std::max(filled, kFirstChunk), size_t{1} << 30});
    array.values.resize(filled + step);
    const size_t count = file.read(array.values.data() + filled, step);
    filled += count;
    QAT_CHECK_AS(FileError, count == step, "{}: truncated: the header declares {} = {} values, the file holds {}", path,
                 shape_text(array.dims), declared, filled);
  }
  uint8_t extra = 0;  // reading past the values also makes zlib compare the checksum
  QAT_CHECK_AS(FileError, file.read(&extra, 1) == 0,
               "{}: the header declares {} = {} values, but the file holds more; it is damaged or not IDX", path,
               shape_text(array.dims), declared);
  return array;
}

IdxDataset::IdxDataset(const std::string& images, const std::string& labels, int64_t num_classes, int64_t limit,
                       std::vector<std::string> class_names)
    : num_classes_(num_classes), class_names_(std::move(class_names)) {
  QAT_CHECK(num_classes >= 1 && limit >= 0, "idx: expected num_classes >= 1 and a limit >= 0, found {} and {}",
            num_classes, limit);
  QAT_CHECK(class_names_.empty() || static_cast<int64_t>(class_names_.size()) == num_classes,
            "idx: expected {} names of classes, found {}", num_classes, class_names_.size());
  IdxArray pixels = read_idx(images, 3);
  IdxArray classes = read_idx(labels, 1);
  const int64_t count = pixels.dims[0];
  QAT_CHECK_AS(FileError, count == classes.dims[0],
               "{}: expected one label for each image: {} labels for the {} images of {}", labels, classes.dims[0],
               count, images);
  for (size_t i = 0; i < classes.values.size(); ++i) {
    QAT_CHECK_AS(FileError, classes.values[i] < num_classes, "{}: label {} is {}, expected 0 to {}", labels, i,
                 classes.values[i], num_classes - 1);
  }
  height_ = pixels.dims[1];
  width_ = pixels.dims[2];
  pixels_ = std::move(pixels.values);
  labels_ = std::move(classes.values);
  if (limit > 0 && limit < count) {
    pixels_.resize(static_cast<size_t>(limit * height_ * width_));
    pixels_.shrink_to_fit();
    labels_.resize(static_cast<size_t>(limit));
  }
}

std::vector<std::string> IdxDataset::class_names() const {
  return class_names_.empty() ? Dataset::class_names() : class_names_;
}

Sample IdxDataset::get(int64_t index) const {
  QAT_CHECK(index >= 0 && index < size(), "idx: sample {} of {} does not exist", index, size());
  const auto begin = pixels_.begin() + index * height_ * width_;
  return {{height_, width_, 1, std::vector<uint8_t>(begin, begin + height_ * width_)},
          labels_[static_cast<size_t>(index)]};
}

std::string find_fashion_mnist(const std::string& root) {
  const std::vector<std::string> folders =
      root == "auto" ? std::vector<std::string>{"/usr/share/datasets/fashion-mnist", "data/fashion-mnist"}
                     : std::vector<std::string>{root};
  for (const std::string& folder : folders) {
    std::error_code error;
    if (std::filesystem::is_directory(folder, error)) return folder;
  }
  throw FileError(
      fmt::format("{}: folder of Fashion-MNIST not found; install it with: apt-get install dataset-fashion-mnist "
                  "(then root: auto), or set data.dataset.root to the folder with train-images-idx3-ubyte(.gz)",
                  fmt::join(folders, ", ")));
}

}  // namespace qat::datasets
