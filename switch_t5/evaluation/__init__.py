# SPDX-License-Identifier: Apache-2.0
"""What a trained model is worth: held-out losses, and spans it fills."""
