// The subcommands: each adds itself to the command line and returns what runs when it was chosen.
#pragma once

#include <CLI/App.hpp>
#include <functional>
#include <string>
#include <vector>

namespace qat::cli {

/// Returns the exit code; throws for failures.
using Run = std::function<int()>;

/// `plugins`: those of the command line, once it is parsed; they outlive the command. `post_training`: of the stages,
/// only those that do not train.
Run add_train(CLI::App& app, const std::string& program, const std::vector<std::string>& plugins, bool post_training);
Run add_eval(CLI::App& app);
Run add_export(CLI::App& app);
Run add_verify(CLI::App& app);
Run add_inspect(CLI::App& app);
Run add_report(CLI::App& app);
Run add_predict(CLI::App& app);
/// argv: of the program, which starts itself again for settings that libraries read when they are loaded.
Run add_bench(CLI::App& app, char** argv);
Run add_list(CLI::App& app);
Run add_config(CLI::App& app);
Run add_version(CLI::App& app);

}  // namespace qat::cli
