"""Every default of the pipeline on one screen. The scripts show them as the defaults of their options."""

# Input and output of the network
IMAGE_SIZE = 256  # pixels, height and width of a slice
CHANNELS = 3  # pre-contrast, FLAIR, post-contrast, in this order
FLAIR = 1  # index of the FLAIR channel
CLASSES = 1  # FLAIR abnormality against everything else
WIDTH = 64  # channels of the first level; they double down to 16 x WIDTH
MEAN = (0.5, 0.5, 0.5)  # per channel, after scaling 0..255 to 0..1 ...
STD = (0.5, 0.5, 0.5)  # ... so that the network sees [-1, 1]
THRESHOLD = 0.5  # probability from which a pixel counts as lesion

# Training
BATCH_SIZE = 32  # slices
EPOCHS = 94
LEARNING_RATE = 1e-3  # Adam
LOSS = "bce"  # binary cross-entropy with logits; see losses.py

# Split by patient. The seed was chosen on slice counts alone (no image, no score was looked at), so that
# the sorted patient ids fall into the published composition:
#   all 110 patients: 79 / 20 / 11 patients with 2769 / 756 / 404 slices
#   the 12-patient subset: 8 / 2 / 2 patients with 178 / 45 / 113 slices
RANDOM_STATE = 56121002
TEST_SHARE = 0.1  # of all patients
VALIDATION_SHARE = 0.2  # of the patients that remain

# Where things are, unless an option says otherwise
DATA_DIR = "lgg-mri-segmentation/kaggle_3m"  # the real data set, once downloaded
SYNTHETIC_DIR = "lgg-mri-segmentation/synthetic"  # stands in while there is no real data
RUN_DIR = "."  # models/, CSV files and plots/ go here

# Synthetic patients (phantom.py)
SYNTHETIC_PATIENTS = 14
SYNTHETIC_SLICES = (14, 22)  # fewest and most slices of one patient
SYNTHETIC_SEED = 2026
