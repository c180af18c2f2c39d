// qat bench: what training steps, their kernels and inference cost on this machine.
#include "trainers/bench.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/text.h"
#include "tools/qat/commands.h"
#include "trainers/inference_bench.h"

namespace qat::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  trainers::StepBenchRequest request;
  std::string memory_of;  // one side: only its resident memory
  bool resident = false, json = false;
};

/// LibTorch's own kernels, oneDNN and MKL read their limits when they are loaded: the program starts itself again.
void limit_libraries(const std::string& isa, char** argv) {
  if (isa.empty()) return;
  const bool avx2 = isa == "avx2";
  bool changed = false;
  for (const auto& [name, value] : {std::pair("ATEN_CPU_CAPABILITY", avx2 ? "avx2" : "avx512"),
                                    std::pair("ONEDNN_MAX_CPU_ISA", avx2 ? "AVX2" : "AVX512_CORE"),
                                    std::pair("MKL_ENABLE_INSTRUCTIONS", avx2 ? "AVX2" : "AVX512")}) {
    const char* now = std::getenv(name);
    if (now != nullptr && std::string(now) == value) continue;
    setenv(name, value, 1);
    changed = true;
  }
  if (!changed) return;
  execv("/proc/self/exe", argv);
  throw Error("cannot start this program again with other settings for LibTorch");
}

/// Growth of one side's resident memory, in a process of its own.
int64_t resident_growth(char** argv, const std::string& side) {
  std::string command = fmt::format("exec /proc/{}/exe", getpid());
  for (char** argument = argv + 1; *argument != nullptr; ++argument) {
    std::string quoted;
    for (const char* c = *argument; *c != '\0'; ++c) quoted += *c == '\'' ? std::string("'\\''") : std::string(1, *c);
    command += " '" + quoted + "'";
  }
  command += " --memory-of " + side;
  FILE* pipe = popen(command.c_str(), "r");
  QAT_CHECK(pipe != nullptr, "cannot start a process to measure memory");
  std::string text;
  char buffer[4096];
  for (size_t n = 0; (n = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) text.append(buffer, n);
  QAT_CHECK(pclose(pipe) == 0, "the process that measures the memory of the {} side failed", side);
  return Json::parse(text).at("peak_rss_growth_bytes").get<int64_t>();
}

void print_gpu_step(const Json& r) {
  const auto number = [&](const char* key) { return r[key].get<double>(); };
  const auto bytes = [](const Json& value) { return format_bytes(value.get<uint64_t>()); };
  fmt::print("{} batch {} on the GPU {} memory {}{}\n", r["model"].get<std::string>(), r["batch_size"].get<int64_t>(),
             r["phase"].get<std::string>(), r["memory"].get<std::string>(),
             r["autocast"].get<bool>() ? " bfloat16" : "");
  if (r.contains("float")) {
    const Json& f = r["float"];
    fmt::print("step: float {:.3f} ms ({}), quantized {:.3f} ms, ratio {:.3f} (medians {:.3f}, {:.3f}, {:.3f})\n",
               number("float_ms"), f["layout"].get<std::string>(), number("quantized_ms"), number("ratio"),
               number("float_median_ms"), number("quantized_median_ms"), number("median_ratio"));
    fmt::print("saved for backward: float {}, quantized {}, ratio {:.3f}\n", bytes(r["float_saved_bytes"]),
               bytes(r["quantized_saved_bytes"]), number("saved_ratio"));
    fmt::print("largest in a step: float {} with gradients\n", bytes(f["peak_bytes"]));
  } else {
    fmt::print("step: quantized {:.3f} ms (median {:.3f}); no float step: {}\n", number("quantized_ms"),
               number("quantized_median_ms"), r["no_float"].get<std::string>());
    fmt::print("saved for backward: quantized {}\n", bytes(r["quantized_saved_bytes"]));
  }
  fmt::print("quantized: maps and scratch memory {}, all else {} (parameters {})\n", bytes(r["activation_bytes"]),
             bytes(r["state_bytes"]), bytes(r["parameter_bytes"]));
}

void print_step(const Json& r) {
  const auto number = [&](const char* key) { return r[key].get<double>(); };
  fmt::print("{} batch {} threads {} {} memory {} ({}, LibTorch {})\n", r["model"].get<std::string>(),
             r["batch_size"].get<int64_t>(), r["threads"].get<int64_t>(), r["phase"].get<std::string>(),
             r["memory"].get<std::string>(), r["vector_target"].get<std::string>(),
             r["libtorch_capability"].get<std::string>());
  fmt::print("step: float {:.2f} ms ({}), quantized {:.2f} ms, ratio {:.3f} (medians {:.2f}, {:.2f}, {:.3f})\n",
             number("float_ms"), r["float"]["layout"].get<std::string>(), number("quantized_ms"), number("ratio"),
             number("float_median_ms"), number("quantized_median_ms"), number("median_ratio"));
  fmt::print("saved for backward: float {}, quantized {}, ratio {:.3f} (parameters {})\n",
             format_bytes(r["float_saved_bytes"].get<uint64_t>()),
             format_bytes(r["quantized_saved_bytes"].get<uint64_t>()), number("saved_ratio"),
             format_bytes(r["parameter_bytes"].get<uint64_t>()));
  if (r.contains("float_peak_rss_growth_bytes")) {
    fmt::print("resident memory grows by: float {}, quantized {}\n",
               format_bytes(r["float_peak_rss_growth_bytes"].get<uint64_t>()),
               format_bytes(r["quantized_peak_rss_growth_bytes"].get<uint64_t>()));
  }
  for (const char* part : {"forward_ms", "backward_ms", "optimizer_ms"}) {
    fmt::print("  {:<24} float {:8.2f}   quantized {:8.2f}\n", part, r["float"][part].get<double>(),
               r["quantized"][part].get<double>());
  }
  for (const auto& [name, spent] : r["quantized"]["passes"].items()) {
    fmt::print("    {:<46}{:8.2f}\n", name, spent.get<double>());
  }
  fmt::print("wait for data {:.2f} ms, {:.1f}% of a quantized step\n", number("data_ms"), 100 * number("data_share"));
}

Run add_inference(CLI::App& bench) {
  CLI::App* app = bench.add_subcommand("inference", "The engine beside ONNX Runtime on an exported file, in turn");
  const auto o = std::make_shared<trainers::InferenceBenchRequest>();
  const auto json = std::make_shared<bool>(false);
  app->add_option("--model", o->model, "Exported file")->required()->type_name("FILE");
  app->add_option("--runs", o->runs, "Timed runs of each side")->type_name("N")->check(CLI::PositiveNumber);
  app->add_option("--threads", o->threads, "Of each side")->type_name("N")->check(CLI::PositiveNumber);
  app->add_option("--isa", o->isa, "Highest instruction set of the engine: avx2 or avx512")
      ->check(CLI::IsMember({"avx2", "avx512"}));
  app->add_flag("--operators", o->operators, "The engine's time by kind of operator too");
  app->add_flag("--json", *json, "Print one JSON object and nothing else");
  return [o, json] {
    const Json r = trainers::inference_bench(*o);
    if (*json) {
      fmt::print("{}\n", r.dump(2));
      return 0;
    }
    for (const auto& [key, value] : r.items()) fmt::print("{}: {}\n", key, value.dump());
    return 0;
  };
}

void print_ops(const Json& r) {
  fmt::print("{} (LibTorch {}), threads {}: copy {:.1f} GB/s, peak float {:.1f}, int16 {:.1f} GMAC/s\n",
             r["vector_target"].get<std::string>(), r["libtorch_capability"].get<std::string>(),
             r["threads"].get<int64_t>(), r["copy_gb_s"].get<double>(), r["peak_float_gmac_s"].get<double>(),
             r["peak_int16_gmac_s"].get<double>());
  fmt::print("{:<40}{:>12}{:>8}{:>9}\n", "pass", "ns/element", "GB/s", "of copy");
  for (const Json& p : r["passes"]) {
    fmt::print("{:<40}{:>12.3f}{:>8.1f}{:>9.2f}\n", p["name"].get<std::string>(), p["ns_per_element"].get<double>(),
               p["gb_s"].get<double>(), p["of_copy"].get<double>());
  }
  fmt::print("{:<42}{:>9}{:>9}{:>9}{:>15}{:>15}\n", "convolution, GMAC/s", "float", "a8w8", "a4w4", "dw (float)",
             "dx (float)");
  for (const Json& c : r["convolutions"]) {
    const auto number = [&](const char* key) { return c[key].get<double>(); };
    fmt::print("{:<42}{:>9.1f}{:>9.1f}{:>9.1f}{:>7.1f} ({:5.1f}){:>7.1f} ({:5.1f})\n", c["shape"].get<std::string>(),
               number("float_gmac_s"), number("a8w8_gmac_s"), number("a4w4_gmac_s"), number("weight_gradient_gmac_s"),
               number("float_weight_gradient_gmac_s"), number("input_gradient_gmac_s"),
               number("float_input_gradient_gmac_s"));
  }
}

}  // namespace

Run add_bench(CLI::App& app, char** argv) {
  app.require_subcommand(1);
  const Run inference = add_inference(app);
  CLI::App* step = app.add_subcommand("step", "A quantized training step beside the float one, in turn");
  const auto o = std::make_shared<Options>();
  step->add_option("--config", o->request.config, "YAML file of the experiment")->required()->type_name("FILE");
  step->add_option("--set", o->request.overrides, "Change a key, e.g. quantization.memory=exact; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  step->add_option("--threads", o->request.threads, "Default: the config's")
      ->type_name("N")
      ->check(CLI::PositiveNumber);
  step->add_option("--steps", o->request.steps, "Timed steps of each side")->type_name("N")->check(CLI::PositiveNumber);
  step->add_option("--isa", o->request.isa, "Highest instruction set of all kernels, LibTorch's too: avx2 or avx512")
      ->check(CLI::IsMember({"avx2", "avx512"}));
  step->add_flag("--frozen", o->request.frozen, "The phase after the freeze");
  step->add_flag("--resident", o->resident, "Measure resident memory too, in fresh processes");
  step->add_option("--memory-of", o->memory_of, "Only the resident memory of one side: float or quantized")
      ->check(CLI::IsMember({"float", "quantized"}));
  step->add_flag("--json", o->json, "Print one JSON object and nothing else");
  CLI::App* kernels =
      app.add_subcommand("ops", "The kernels of a training step, beside a copy, the peak and LibTorch's");
  kernels->add_option("--threads", o->request.threads, "Default: 1")->type_name("N")->check(CLI::PositiveNumber);
  kernels->add_option("--isa", o->request.isa, "Highest instruction set of all kernels, LibTorch's too: avx2 or avx512")
      ->check(CLI::IsMember({"avx2", "avx512"}));
  kernels->add_flag("--json", o->json, "Print one JSON object and nothing else");
  return [o, argv, inference, step, kernels] {
    if (kernels->parsed()) {
      limit_libraries(o->request.isa, argv);
      const Json r = trainers::ops_bench(std::max<int64_t>(1, o->request.threads), o->request.isa);
      if (o->json) {
        fmt::print("{}\n", r.dump(2));
      } else {
        print_ops(r);
      }
      return 0;
    }
    if (!step->parsed()) return inference();
    limit_libraries(o->request.isa, argv);
    Json r;
    if (!o->memory_of.empty()) {
      r = trainers::step_memory(o->request, o->memory_of);
    } else {
      r = trainers::step_bench(o->request);
      if (o->resident) {
        for (const char* side : {"float", "quantized"}) {
          r[fmt::format("{}_peak_rss_growth_bytes", side)] = resident_growth(argv, side);
        }
      }
    }
    if (o->json || !o->memory_of.empty()) {
      fmt::print("{}\n", r.dump(2));
    } else if (r.contains("device")) {
      print_gpu_step(r);
    } else {
      print_step(r);
    }
    return 0;
  };
}

}  // namespace qat::cli
