"""Parts of the benchmark `mask_quality`: masks of the miniature world and of COCO, compared with the truth."""
