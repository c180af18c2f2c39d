// The families of networks: each function registers the rows of its table.
#pragma once

#include "models/model.h"

namespace qat::models {

void add_convnexts(Registry<ModelFactory>& models);
void add_densenets(Registry<ModelFactory>& models);
void add_efficientnets(Registry<ModelFactory>& models);
void add_examples(Registry<ModelFactory>& models);
void add_inceptions(Registry<ModelFactory>& models);
void add_mnasnets(Registry<ModelFactory>& models);
void add_mobilenets(Registry<ModelFactory>& models);
void add_nins(Registry<ModelFactory>& models);
void add_regnets(Registry<ModelFactory>& models);
void add_resnets(Registry<ModelFactory>& models);
void add_shufflenets(Registry<ModelFactory>& models);
void add_squeezenets(Registry<ModelFactory>& models);
void add_vggs(Registry<ModelFactory>& models);
void add_vits(Registry<ModelFactory>& models);

}  // namespace qat::models
