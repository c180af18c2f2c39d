#include "quantizers/builtin.h"

#include "core/quant/quantizer.h"
#include "quantizers/apot.h"
#include "quantizers/bfp.h"
#include "quantizers/bnn.h"
#include "quantizers/dorefa.h"
#include "quantizers/floating_point.h"
#include "quantizers/gfpq.h"
#include "quantizers/learned_bits.h"
#include "quantizers/lsq.h"
#include "quantizers/lsq_plus.h"
#include "quantizers/minmax.h"
#include "quantizers/n2uq.h"
#include "quantizers/naive.h"
#include "quantizers/observers/diffs.h"
#include "quantizers/observers/histogram.h"
#include "quantizers/observers/kl.h"
#include "quantizers/observers/range.h"
#include "quantizers/pact.h"
#include "quantizers/pow2.h"
#include "quantizers/ternary.h"
#include "quantizers/tqt.h"
#include "quantizers/winograd.h"
#include "quantizers/xnor.h"

namespace qat::quantizers {
namespace {

template <class Q>
std::shared_ptr<quant::Quantizer> make(const quant::QuantSpec& spec, const quant::QuantizerOptions& options) {
  return std::make_shared<Q>(spec, options);
}

template <class O>
std::shared_ptr<quant::Observer> make_observer(const quant::ObserverOptions& options) {
  return std::make_shared<O>(options);
}

constexpr quant::Support kWeights{.activations = false};
constexpr quant::Support kBinaryWeights{.activations = false, .min_bits = 1, .max_bits = 1};

bool add_all() {
  auto& q = quant::quantizers();
  q.add("minmax", "range of the data, observed (Jacob et al. 2018)", make<MinMax>);
  q.add("lsq", "learned step size (Esser et al. 2020)", make<Lsq>);
  q.add("lsq_plus", "learned step and offset (Bhalgat et al. 2020)", make<LsqPlus>);
  q.add("pact", "learned clip level (Choi et al. 2018)", {make<Pact>, {.weights = false}});
  q.add("dorefa", "tanh-normalized weights, activations in [0, 1] (Zhou et al. 2016)",
        {make<Dorefa>, {.min_bits = 1, .channels = false}});
  q.add("tqt", "learned power-of-two threshold (Jain et al. 2020)", make<Tqt>);
  q.add("pow2", "power-of-two step by search (Vitis AI)", make<Pow2>);
  q.add("bnn", "sign (Courbariaux et al. 2016)", {make<Bnn>, {.min_bits = 1, .max_bits = 1}});
  q.add("xnor", "sign times the mean magnitude (Rastegari et al. 2016)", {make<Xnor>, kBinaryWeights});
  q.add("ternary", "three levels: TWN, or TTQ with trained magnitudes (Li & Liu 2016, Zhu et al. 2017)",
        {make<Ternary>, {.activations = false, .min_bits = 2, .max_bits = 2}});
  q.add("gfpq", "logarithmic codes of HiSilicon NNIE", {make<Gfpq>, {.min_bits = 8, .channels = false}});
  q.add("naive", "truncation of NNI's NaiveQuantizer, for comparisons", {make<Naive>, kWeights});
  q.add("apot", "additive powers of two (Li et al. 2020)", {make<Apot>, {.max_bits = 8}});
  q.add("n2uq", "learned thresholds of activations, spread weights (Liu et al. 2022)", {make<N2uq>, {.max_bits = 8}});
  q.add("winograd", "weights quantized in the Winograd domain", {make<Winograd>, kWeights});
  q.add("learned_bits", "learned step and range, hence bit width (Uhlich et al. 2020)", {make<LearnedBits>, kWeights});
  q.add("float16", "IEEE half precision", {make<Float16>, {.min_bits = 16, .channels = false}});
  q.add("bfloat16", "bfloat16", {make<Bfloat16>, {.min_bits = 16, .channels = false}});
  q.add("fp8", "8-bit floating point, e4m3 or e5m2", {make<Fp8>, {.min_bits = 8, .max_bits = 8, .channels = false}});
  q.add("bfp", "block floating point", {make<Bfp>, {.channels = false}});

  auto& o = quant::observers();
  o.add("minmax", "smallest and largest value of all batches", make_observer<MinMaxObserver>);
  o.add("moving_average", "moving averages of each batch's smallest and largest value",
        make_observer<MovingAverageObserver>);
  o.add("running_max", "largest magnitude so far, symmetric", make_observer<RunningMaxObserver>);
  o.add("online", "range of the last batch", make_observer<OnlineObserver>);
  o.add("batches", "mode, mean, median or maximum of the batches' ranges", make_observer<BatchesObserver>);
  o.add("histogram", "least error under quantiles (torch.ao's HistogramObserver)", make_observer<HistogramObserver>);
  o.add("percentile", "all but the outermost values", make_observer<PercentileObserver>);
  o.add("mse", "least squared quantization error", make_observer<MseObserver>);
  o.add("kl", "least Kullback-Leibler divergence (MXNet's and TensorRT's forms)", make_observer<KlObserver>);
  o.add("diffs", "power-of-two step with the least squared error (Vitis AI)", make_observer<DiffsObserver>);
  return true;
}

}  // namespace

void register_builtin() {
  static const bool done = add_all();
  static_cast<void>(done);
}

}  // namespace qat::quantizers
