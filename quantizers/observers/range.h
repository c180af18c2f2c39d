// Observers that need only each batch's smallest and largest value.
//
//   minmax          over everything seen
//   running_max     the same, symmetric: m = largest |x| so far, range [-m, m], or [0, m] where no value was negative.
//                   It never decays (nnieqat)
//   online          of the last batch alone (Quantization.MXNet, `online`)
//   moving_average  r <- r + a * (batch - r). `start` says from what:
//                     first_batch  r = the first batch (torch.ao, NNI)
//                     zero         r = 0: after n batches (1 - (1 - a)^n) of the truth (Quantization.MXNet)
//                     debiased     the same divided by 1 - (1 - a)^n (Adam's correction)
//                   `per_sample`: a batch counts as the mean of its samples' smallest and largest values (MXNet)
//   batches         the mean, median, maximum or mode of the batches' ranges (Vitis AI, calib_statistic_method); the
//                   last 1024 batches count. Mode: of values rounded to 1/16 octave; among equals the smallest
#pragma once

#include <string>

#include "core/quant/observer.h"

namespace qat::quantizers {

class MinMaxObserver final : public quant::Observer {
 public:
  explicit MinMaxObserver(const quant::ObserverOptions& options);
  bool takes_ranges() const override { return true; }

 private:
  void add(const at::Tensor& values, double min, double max) override;
  void add_range(double min, double max) override;
  std::optional<quant::RangeForm> range_form() const override;
  std::pair<double, double> range_now() const override;

  at::Tensor range_;  // float64 [2]
};

class RunningMaxObserver final : public quant::Observer {
 public:
  explicit RunningMaxObserver(const quant::ObserverOptions& options);
  bool takes_ranges() const override { return true; }

 private:
  void add(const at::Tensor& values, double min, double max) override;
  void add_range(double min, double max) override;
  std::pair<double, double> range_now() const override;

  at::Tensor range_;  // float64 [2]: the extremes
};

class OnlineObserver final : public quant::Observer {
 public:
  explicit OnlineObserver(const quant::ObserverOptions& options);
  bool takes_ranges() const override { return true; }

 private:
  void add(const at::Tensor& values, double min, double max) override;
  void add_range(double min, double max) override;
  std::optional<quant::RangeForm> range_form() const override;
  std::pair<double, double> range_now() const override;

  at::Tensor range_;  // float64 [2]
};

struct MovingAverageOptions {
  double averaging = 0.01;
  std::string start = "first_batch";
  bool per_sample = false;
};

class MovingAverageObserver final : public quant::Observer {
 public:
  explicit MovingAverageObserver(const quant::ObserverOptions& options);
  bool takes_ranges() const override { return !options_.per_sample; }

 private:
  void add(const at::Tensor& values, double min, double max) override;
  void add_range(double min, double max) override;
  std::optional<quant::RangeForm> range_form() const override;
  std::pair<double, double> range_now() const override;

  MovingAverageOptions options_;
  at::Tensor range_;  // float64 [2], without the correction
};

struct BatchesOptions {
  std::string statistic = "mode";
};

class BatchesObserver final : public quant::Observer {
 public:
  explicit BatchesObserver(const quant::ObserverOptions& options);
  bool takes_ranges() const override { return true; }

 private:
  void add(const at::Tensor& values, double min, double max) override;
  void add_range(double min, double max) override;
  std::pair<double, double> range_now() const override;

  BatchesOptions options_;
  at::Tensor ranges_;  // float64 [1024, 2]: a ring
};

}  // namespace qat::quantizers
