#include "core/judges/onnxruntime.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/engine/layout.h"
#include "core/export/onnx.h"
#include "core/judges/compare.h"

namespace qat::judges {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kApiVersion = 11;

// Positions in the table of functions (struct OrtApi of onnxruntime_c_api.h).
enum Position : size_t {
  kGetErrorMessage = 2,
  kCreateEnv = 3,
  kCreateSessionFromArray = 8,
  kRun = 9,
  kCreateSessionOptions = 10,
  kSetOptimizedModelFilePath = 11,
  kSetSessionGraphOptimizationLevel = 23,
  kSetIntraOpNumThreads = 24,
  kCreateTensorWithDataAsOrtValue = 49,
  kGetTensorMutableData = 51,
  kGetTensorElementType = 60,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorTypeAndShape = 65,
  kCreateCpuMemoryInfo = 69,
  kReleaseStatus = 93,
  kReleaseMemoryInfo = 94,
  kReleaseSession = 95,
  kReleaseValue = 96,
  kReleaseTensorTypeAndShapeInfo = 99,
  kReleaseSessionOptions = 100,
  kAddSessionConfigEntry = 130,
};

constexpr int kErrorsOnly = 3;       // OrtLoggingLevel
constexpr int kEnableAll = 99;       // GraphOptimizationLevel
constexpr int kDeviceAllocator = 0;  // OrtAllocatorType
constexpr int kDefaultMemory = 0;    // OrtMemType
enum ElementType { kFloat = 1, kUint8 = 2, kInt8 = 3 };

struct ApiBase {
  const void* (*get_api)(uint32_t version);
  const char* (*get_version)();
};

bool is_library(const fs::path& path) { return path.filename().string().starts_with("libonnxruntime.so"); }

std::optional<std::string> library_in(const fs::path& folder) {
  std::error_code error;
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (is_library(entry.path())) found.push_back(entry.path().string());
  }
  if (found.empty()) return std::nullopt;
  return std::ranges::min(found);
}

}  // namespace

/// The table, and the environment that all sessions share.
struct OrtFunctions {
  void* const* table = nullptr;
  void* environment = nullptr;

  /// Calls a function that gives a status; throws what it says.
  template <class... Arguments>
  void call(Position position, Arguments... arguments) const {
    const auto function = reinterpret_cast<void* (*)(Arguments...)>(table[position]);
    void* status = function(arguments...);
    if (status == nullptr) return;
    const auto message = reinterpret_cast<const char* (*)(const void*)>(table[kGetErrorMessage]);
    const std::string text = message(status);
    release(kReleaseStatus, status);
    throw Error("ONNX Runtime: " + text);
  }

  void release(Position position, void* object) const {
    if (object != nullptr) reinterpret_cast<void (*)(void*)>(table[position])(object);
  }
};

namespace {

/// Something of ONNX Runtime's, released with its owner.
class Owned {
 public:
  Owned(const OrtFunctions& functions, Position release) : functions_(functions), release_(release) {}
  ~Owned() { functions_.release(release_, object_); }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;

  void* get() const { return object_; }
  void** out() { return &object_; }

 private:
  const OrtFunctions& functions_;
  Position release_;
  void* object_ = nullptr;
};

/// A file name for ONNX Runtime to write to, removed with its owner.
class TemporaryFile {
 public:
  TemporaryFile() : path_((fs::temp_directory_path() / "qat_onnx_XXXXXX").string()) {
    const int file = mkstemp(path_.data());
    if (file < 0) throw file_error(path_, "cannot create", errno);
    ::close(file);
  }
  ~TemporaryFile() { ::unlink(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

struct OrtSessionHandle {
  OrtSessionHandle(std::shared_ptr<const OrtFunctions> f) : functions(std::move(f)) {}
  ~OrtSessionHandle() { functions->release(kReleaseSession, session); }
  OrtSessionHandle(const OrtSessionHandle&) = delete;
  OrtSessionHandle& operator=(const OrtSessionHandle&) = delete;

  std::shared_ptr<const OrtFunctions> functions;
  void* session = nullptr;
};

std::optional<std::string> OnnxRuntime::find() {
  if (const char* given = std::getenv("QAT_ONNXRUNTIME"); given != nullptr && *given != '\0') {
    const std::optional<std::string> library = fs::is_directory(given) ? library_in(given) : std::optional(given);
    QAT_CHECK_AS(FileError, library && fs::exists(*library),
                 "QAT_ONNXRUNTIME: expected libonnxruntime.so or its folder, found nothing at {}", given);
    return library;
  }
  std::error_code error;
  fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  while (!folder.empty()) {
    if (const auto library = library_in(folder / ".deps/onnxruntime")) return library;
    if (folder == folder.parent_path()) break;
    folder = folder.parent_path();
  }
  return std::nullopt;
}

OnnxRuntime::OnnxRuntime(const std::string& library) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  QAT_CHECK_AS(FileError, handle != nullptr, "{}: cannot load ONNX Runtime: {}", library, dlerror());
  const auto get_base = reinterpret_cast<const ApiBase* (*)()>(dlsym(handle, "OrtGetApiBase"));
  QAT_CHECK_AS(FileError, get_base != nullptr, "{}: not an ONNX Runtime: it has no OrtGetApiBase", library);
  version_ = get_base()->get_version();
  auto functions = std::make_shared<OrtFunctions>();
  functions->table = static_cast<void* const*>(get_base()->get_api(kApiVersion));
  QAT_CHECK_AS(FileError, functions->table != nullptr, "{}: ONNX Runtime {} is too old: 1.{} is needed", library,
               version_, kApiVersion);
  functions->call(kCreateEnv, kErrorsOnly, "qat", &functions->environment);
  functions_ = std::move(functions);
}

OnnxSession::OnnxSession(const OnnxRuntime& runtime, const std::string& bytes, SessionKind kind, bool int8_activations,
                         std::string* optimized, int threads)
    : functions_(runtime.functions_), handle_(std::make_shared<OrtSessionHandle>(runtime.functions_)) {
  const OrtFunctions& ort = *functions_;
  Owned options(ort, kReleaseSessionOptions);
  ort.call(kCreateSessionOptions, options.out());
  ort.call(kSetIntraOpNumThreads, options.get(), threads);
  if (kind == SessionKind::kExact) {
    ort.call(kSetSessionGraphOptimizationLevel, options.get(), kEnableAll);
    // Never both: a session with int8 activations and the first option fails to load.
    const char* key = int8_activations ? "session.qdqisint8allowed" : "session.x64quantprecision";
    ort.call(kAddSessionConfigEntry, options.get(), key, "1");
  }
  std::optional<TemporaryFile> file;
  if (optimized != nullptr) ort.call(kSetOptimizedModelFilePath, options.get(), file.emplace().path().c_str());
  ort.call(kCreateSessionFromArray, ort.environment, static_cast<const void*>(bytes.data()), bytes.size(),
           options.get(), &handle_->session);
  if (optimized != nullptr) *optimized = read_file(file->path());
}

std::vector<OnnxSession::Output> OnnxSession::run(const std::vector<Input>& inputs,
                                                  const std::vector<std::string>& outputs) const {
  const OrtFunctions& ort = *functions_;
  Owned memory(ort, kReleaseMemoryInfo);
  ort.call(kCreateCpuMemoryInfo, kDeviceAllocator, kDefaultMemory, memory.out());
  std::vector<std::unique_ptr<Owned>> given, made;
  std::vector<const char*> input_names, output_names;
  std::vector<void*> input_values, output_values(outputs.size(), nullptr);
  for (const Input& input : inputs) {
    Owned& value = *given.emplace_back(std::make_unique<Owned>(ort, kReleaseValue));
    const bool is_float = input.value.codes.empty();
    const void* data = is_float ? static_cast<const void*>(input.value.values.data()) : input.value.codes.data();
    const size_t bytes = input.value.values.size() * sizeof(float) + input.value.codes.size();
    ort.call(kCreateTensorWithDataAsOrtValue, memory.get(), const_cast<void*>(data), bytes, input.shape.data(),
             input.shape.size(), static_cast<int>(is_float ? kFloat : kUint8), value.out());
    input_names.push_back(input.name.c_str());
    input_values.push_back(value.get());
  }
  for (const std::string& name : outputs) output_names.push_back(name.c_str());
  ort.call(kRun, handle_->session, static_cast<void*>(nullptr), input_names.data(), input_values.data(),
           input_values.size(), output_names.data(), output_names.size(), output_values.data());
  std::vector<Output> results;
  for (void* value : output_values) {
    *made.emplace_back(std::make_unique<Owned>(ort, kReleaseValue))->out() = value;
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    Owned info(ort, kReleaseTensorTypeAndShapeInfo);
    ort.call(kGetTensorTypeAndShape, made[i]->get(), info.out());
    int type = 0;
    size_t rank = 0;
    void* data = nullptr;
    ort.call(kGetTensorElementType, info.get(), &type);
    ort.call(kGetDimensionsCount, info.get(), &rank);
    Output& result = results.emplace_back();
    result.shape.resize(rank);
    ort.call(kGetDimensions, info.get(), result.shape.data(), rank);
    ort.call(kGetTensorMutableData, made[i]->get(), &data);
    size_t size = 1;
    for (const int64_t d : result.shape) size *= static_cast<size_t>(d);
    QAT_CHECK(type == kFloat || type == kUint8 || type == kInt8, "{}: unexpected element type {}", outputs[i], type);
    result.value.batch = result.shape.empty() ? 1 : result.shape[0];
    if (type == kFloat) {
      const auto* values = static_cast<const float*>(data);
      result.value.values.assign(values, values + size);
    } else {
      const auto* codes = static_cast<const uint8_t*>(data);
      result.value.codes.assign(codes, codes + size);
    }
  }
  return results;
}

OnnxRuntimeJudge::OnnxRuntimeJudge(const OnnxRuntime& runtime, const std::string& bytes,
                                   const integer::IntegerModel& model, SessionKind kind)
    : model_(model) {
  const bool int8 =
      std::ranges::any_of(model.tensors, [](const integer::Tensor& t) { return t.type == integer::CodeType::kInt8; });
  std::string optimized;
  file_.emplace(runtime, exporter::onnx_for_judge(bytes, model, false), kind, int8, &optimized);
  all_.emplace(runtime, exporter::onnx_for_judge(bytes, model, true), kind, int8);
  float_nodes_ = exporter::onnx_float_nodes(optimized, "the optimised model");
}

void OnnxRuntimeJudge::run(const std::vector<engine::Value>& inputs, const engine::Engine::Observer& observe) const {
  QAT_CHECK(inputs.size() == model_.inputs.size(), "expected {} inputs, found {}", model_.inputs.size(), inputs.size());
  const auto tensor = [&](int index) -> const integer::Tensor& { return model_.tensors[static_cast<size_t>(index)]; };
  const auto shape = [](const integer::Tensor& t, int64_t batch) {
    std::vector<int64_t> dims = {batch};
    dims.insert(dims.end(), t.shape.begin(), t.shape.end());
    return dims;
  };
  std::vector<engine::Value> nchw;
  std::vector<OnnxSession::Input> given;
  for (size_t i = 0; i < inputs.size(); ++i) nchw.push_back(engine::to_nchw(inputs[i], tensor(model_.inputs[i])));
  for (size_t i = 0; i < inputs.size(); ++i) {
    const integer::Tensor& x = tensor(model_.inputs[i]);
    given.push_back({.name = x.name, .shape = shape(x, inputs[i].batch), .value = nchw[i]});
  }
  const auto show = [&](const OnnxSession& session, const std::vector<int>& indices) {
    if (indices.empty()) return;
    std::vector<std::string> names;
    for (const int index : indices) names.push_back(exporter::onnx_name(tensor(index)));
    const std::vector<OnnxSession::Output> outputs = session.run(given, names);
    for (size_t i = 0; i < indices.size(); ++i) {
      const integer::Tensor& t = tensor(indices[i]);
      const bool is_float = outputs[i].value.codes.empty();
      QAT_CHECK(outputs[i].shape == shape(t, inputs[0].batch) && is_float == (t.type == integer::CodeType::kFloat32),
                "{}: ONNX Runtime gives [{}], the file says [{}]", names[i], fmt::join(outputs[i].shape, ", "),
                fmt::join(t.shape, ", "));
      observe(indices[i], engine::to_nhwc(outputs[i].value, t));
    }
  };
  std::vector<int> inner;
  for (const integer::Node& node : model_.nodes) {
    if (std::ranges::find(model_.outputs, node.output) == model_.outputs.end()) inner.push_back(node.output);
  }
  show(*all_, inner);
  show(*file_, model_.outputs);
}

bool default_session_saturates(const OnnxRuntime& runtime) {
  using integer::Op;
  constexpr int16_t kWeight = 127;
  constexpr float kCode = 255;
  integer::IntegerModel model;
  model.tensors = {{.name = "x", .type = integer::CodeType::kFloat32, .shape = {2}},
                   {.name = "x.codes", .shape = {2}},
                   {.name = "y", .type = integer::CodeType::kFloat32, .shape = {1}}};
  model.inputs = {0}, model.outputs = {2};
  integer::Node quantize{.op = Op::kQuantize, .name = "quantize", .inputs = {0}, .output = 1};
  integer::Node linear{.op = Op::kLinear, .name = "linear", .inputs = {1}, .output = 2};
  linear.weight = {.shape = {1, 2}, .codes = {kWeight, kWeight}, .scale = {1}, .zero_point = {0}};
  model.nodes = {std::move(quantize), std::move(linear)};
  constexpr float kExact = 2 * kWeight * kCode, kSaturated = 32767;
  float found = 0;
  OnnxRuntimeJudge(runtime, exporter::onnx_qdq(model), model, SessionKind::kDefault)
      .run({{.batch = 1, .values = {kCode, kCode}}}, [&](int index, const engine::Value& value) {
        if (index == 2) found = value.values.at(0);
      });
  QAT_CHECK(found == kExact || found == kSaturated, "ONNX Runtime's default session gives {} for {}", found, kExact);
  return found == kSaturated;
}

std::string obstacle(const OnnxRuntime& runtime, const integer::IntegerModel& model) {
  if (session_of(model) == SessionKind::kExact || default_session_saturates(runtime)) return "";
  return "the model's sums saturate (overflow: saturate16) as in ONNX Runtime's default sessions on CPUs with AVX2 and "
         "no VNNI; this CPU's are exact";
}

DefaultSession try_default_session(const OnnxRuntime& runtime, const std::string& bytes,
                                   const integer::IntegerModel& model, const std::vector<engine::Value>& inputs) {
  Values expected;
  engine::Engine(model).run(inputs, [&](int index, const engine::Value& value) {
    expected[model.tensors[static_cast<size_t>(index)].name] = value;
  });
  DefaultSession result;
  OnnxRuntimeJudge(runtime, bytes, model, SessionKind::kDefault)
      .run(inputs, [&](int index, const engine::Value& value) {
        TensorResult tensor;
        compare(model, index, expected.at(model.tensors[static_cast<size_t>(index)].name), value, {}, tensor);
        result.compared += tensor.compared;
        result.mismatches += tensor.mismatches;
      });
  return result;
}

}  // namespace qat::judges
