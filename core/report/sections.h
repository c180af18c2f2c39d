// The sections of a page, each as HTML; empty where no run has anything for it.
#pragma once

#include <string>
#include <vector>

#include "core/report/report.h"

namespace qat::report {

std::string summary_section(const std::vector<RunReport>& runs);
std::string curves_section(const std::vector<RunReport>& runs);
std::string layers_section(const std::vector<RunReport>& runs);
std::string grids_section(const std::vector<RunReport>& runs);
std::string confusion_section(const std::vector<RunReport>& runs);
std::string predictions_section(const std::vector<RunReport>& runs);
std::string config_section(const std::vector<RunReport>& runs);

/// `title` with what belongs to it in a card.
std::string card(const std::string& title, const std::string& content, const std::string& note = "");
/// The colours' names; nothing for fewer than two.
std::string legend(const std::vector<std::pair<std::string, int>>& entries);
/// "Layers" of one run, "Layers: <run>" of several.
std::string run_heading(const std::vector<RunReport>& runs, const RunReport& run);

/// The page's style sheet and script.
extern const char* const kStyle;
extern const char* const kScript;

}  // namespace qat::report
