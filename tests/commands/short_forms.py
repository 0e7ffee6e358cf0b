"""What becomes of every kind of documented command: a short form that runs, a test that runs it, or a reason.

A kind is a command's name and the options that are given. See `test_documented_commands.py`.
"""

import re


def table(text):
    """Lines by the line above them that is not indented."""
    rows = re.split(r"\n(?=\S)", text.strip("\n"))
    return {row.split("\n")[0]: " ".join(row.split("\n    ")[1:]) for row in rows}


# kind of command, and the same in short; paths lie in the folder that the fixture `place` makes
SHORT = table("""
benchmark deformable --clock --dtype --image-size --rounds
    deformable --image-size 64 --dtype float32 bfloat16 --clock cpu --rounds 1 --no-memory --device cpu
    --threads 1
benchmark segmentation --config --input --memory --rounds --threads
    segmentation --input photos/*.png --threads 1 --rounds 0 --memory 64 96 --memory-classes 3 3 --config
    windows.yaml --device cpu
benchmark tracking --channels
    tracking --channels 8 --grid 5 6 --frames 3 --device cpu --threads 1
benchmark tracking --channels --device --dtype
    tracking --channels 8 --dtype bfloat16 --grid 5 6 --frames 3 --device cpu --threads 1
cache-teacher --bf16 --input --output
    --input shards/*.tar --output maps_tar --bf16 --grid 2 --device cpu
cache-teacher --grid --image-size --input --output --size --weights
    --input photos/*.png --output maps_small --grid 2 --size tiny --image-size 64 --weights random --device
    cpu
cache-teacher --input --output
    --input photos/*.png --output maps --grid 2 --device cpu
cache-teacher --input --output --rank
    --input list.txt --output maps_rank --rank 1 --grid 2 --device cpu
check
    demo/data/annotations/instances_train.json --tiles 1 --output sheets_of_data
check --config
    --config demo/seg_linear_tiny_shapes.yaml
check --output --tiles
    demo/data/annotations/instances_train.json --tiles 1 --output sheets_of_tiles
check --config --limit --output
    --config demo/seg_linear_tiny_shapes.yaml --limit 3 --output sheets
compare
    run interrupted
compare --output
    run interrupted --output compared
configs copy
    copy pe_g_coco mine.yaml
configs list
    list tracking
configs show
    show pe_g_coco model.backbone.window=16
demo --force --frames --image-size --images --output --video-size --videos
    --output drawn --images 6 --image-size 32 --videos 1 --frames 2 --video-size 32 48 --force
demo --force --image-size --images --output --video-size
    --output drawn --images 6 --image-size 32 --video-size 32 48 --force
demo --formats --image-size --images --output
    --output drawn_coco --images 6 --image-size 32 --formats coco
demo --formats --image-size --images --object-size --objects --output
    --output drawn_small --images 6 --image-size 64 --objects 4 --object-size 6 10 --formats coco
demo --frames --image-size --images --output --video-size --videos
    --output drawn_videos --images 6 --image-size 32 --videos 1 --frames 2 --video-size 32 48
demo --image-size --images --output
    --output drawn_images --images 6 --image-size 32
eval
    run
eval --config
    run/iter_6.pth --config toy.yaml
eval --precision
    run --precision fp32
features --checkpoint --input --output --pool
    --checkpoint model.pth --input photos/film.mp4 --output features_pool --pool mean --device cpu
features --checkpoint --input --output --pool --shard
    --checkpoint model.pth --input photos --output features_shard --pool mean --shard 2/3 --device cpu
features --encoder --format --input --output --pool
    --encoder tiny --weights none --input list.txt --output features_npy --pool cls --format npy --device cpu
features --encoder --format --input --output --pool --weights
    --encoder tiny --weights none --input photos/film.mp4 --output features_cls --pool cls --format npy --device cpu
features --encoder --format --input --output --weights
    --encoder tiny --weights none --input shards/*.tar --output features_tar --format tar --device cpu
features --encoder --input --layers --output
    --encoder tiny --weights none --input photos --output features_l --layers 1,2 --device cpu
features --encoder --input --output
    --encoder tiny --weights none --input photos/*.png --output features_plain --device cpu
features --encoder --input --output --shard
    --encoder tiny --weights none --input photos --output features_s --shard 2/3 --device cpu
plan --config --device --memory --picture
    --config demo/mask_rcnn_tiny_shapes.yaml --memory 64gb --device cuda --picture plan.png
    model.data_preprocessor.pad_to=[64,64]
plan --config --memory --picture
    --config demo/mask_rcnn_tiny_shapes.yaml --memory 64gb --picture plan.png model.data_preprocessor.pad_to=[64,64]
plan --config --memory
    --config demo/mask_rcnn_tiny_shapes.yaml --memory 64gb model.data_preprocessor.pad_to=[64,64]
plan --config --device --memory
    --config demo/mask_rcnn_tiny_shapes.yaml --memory 64gb --device cuda model.data_preprocessor.pad_to=[64,64]
predict --checkpoint --input --limit --output
    --checkpoint model.pth --input photos --output out_l --limit 1
predict --checkpoint --input --output
    --checkpoint model.pth --input photos/**/*.png --output out
predict --checkpoint --input --output --shard
    --checkpoint model.pth --input photos --output out_s --shard 2/3
predict --checkpoint --input --output --threshold
    --checkpoint model.pth --input photos/film.mp4 --output out_t --threshold 0.3
score --annotations --binary --input
    --input davis/Annotations/480p --annotations davis/Annotations/480p --binary
score --annotations --input --videos
    --input davis/Annotations/480p --annotations davis/Annotations/480p --videos val.txt
score --config --input
    --input davis/Annotations/480p --config davis/tiny.yaml
tools/dev/constant_depth.py --config
    --config demo/depth_dpt_tiny_shapes.yaml
track --at --config --input --mask --output
    --config davis/tiny.yaml --input davis/JPEGImages/480p/first --mask first.png --at 2:first.png --output
    tracked_at
track --box --config --input --output
    --config davis/tiny.yaml --input davis/JPEGImages/480p/first --box 10,10,40,40 --box 50,20,80,50 --output
    tracked_box
track --config --input --mask --output
    --config davis/tiny.yaml --input photos/film.mp4 --mask small.png --output tracked_mask
track --config --output
    --config davis/tiny.yaml --output tracked test_dataloader.dataset.data_root=davis
track --config --output --shard
    --config davis/tiny.yaml --output tracked_s --shard 2/2 test_dataloader.dataset.data_root=davis
train --checkpoint --config --eval-only
    --config toy.yaml --eval-only --checkpoint run/iter_6.pth
train --data --epochs --model
    detection --data demo/data --model mask_rcnn-tiny --epochs 1 --image-size 64 --workers 0
train --data --epochs --model --output
    detection --data demo/data --model mask_rcnn-tiny --epochs 1 --output run_of_mine --image-size 64
    --workers 0
train --config
    --config toy.yaml work_dir=run_plain
train --config --eval-only
    --config toy.yaml --eval-only work_dir=run
train --config --output
    --config toy.yaml --output run_new
train --config --output --resume-or-start
    --config toy.yaml --output run_started --resume-or-start
train --resume
    --resume interrupted
visualize --checkpoint --foreground --input --output
    --checkpoint model.pth --input photos/film.mp4 --output seen_video --foreground --device cpu
visualize --encoder --image-size --input --output --weights
    --encoder tiny --weights none --input photos --output seen_folder --image-size 64 --device cpu
visualize --encoder --input --layers --output
    --encoder tiny --weights none --input photos/a1.png --output seen_l --layers 1,2 --device cpu
visualize --encoder --input --layers --output --weights
    --encoder tiny --weights none --input photos/a1.png --output seen_lw --layers 1,2 --device cpu
visualize --encoder --input --layers --output --point --weights
    --encoder tiny --weights none --input photos/a1.png --output seen_w --layers 1,2 --point 10,8 --device cpu
visualize --encoder --input --layers --output --point
    --encoder tiny --weights none --input photos/a1.png --output seen_lp --layers 1,2 --point 10,8 --device
    cpu
visualize --encoder --input --output --point
    --encoder tiny --weights none --input photos/a1.png --output seen_p --point 10,8 --device cpu
""")

# kind of command, and the test that runs it
ELSEWHERE = table("""
export --to
    tests/export/test_export.py::test_the_command_writes_for_openvino
export --batch-size --image-size --precision --to
    tests/export/test_export.py::test_the_command_writes_for_openvino
export --limit --to
    tests/export/test_export.py::test_the_command_writes_for_openvino
export --encoder --images --output --to
    tests/export/test_export.py::test_an_encoder_alone
export --batch-size --image-size --no-metric --precision --to
    tests/export/test_export.py::test_the_command_writes_for_openvino
export --no-metric
    tests/export/test_export.py::test_the_command_writes_for_openvino
export --images --precision --to
    tests/export/test_export.py::test_what_loses_too_much_is_rejected_and_repaired
export --images --precision --repair --to
    tests/export/test_export.py::test_what_loses_too_much_is_rejected_and_repaired
predict --checkpoint --input --output --precision
    tests/commands/test_predict_segmentation.py::test_auto_is_bf16_where_the_processor_has_it
predict --checkpoint --engine --input --output
    tests/export/test_export.py::test_eval_and_predict_take_it
benchmark text --clock --threads --variant
    tests/commands/test_benchmark_text.py::test_both_halves_are_compared
benchmark text --variant
    tests/commands/test_benchmark_text.py::test_both_halves_are_compared
classify --classes --encoder --input --output
    tests/commands/test_classify.py::test_folders_and_videos_are_named_in_all_lists
classify --classes --encoder --input --output --templates
    tests/commands/test_classify.py::test_templates_of_a_file_and_others_weights
classify --classes --encoder --input --output --top-k --weights
    tests/commands/test_classify.py::test_templates_of_a_file_and_others_weights
classify --classes --encoder --evaluate --input --output
    tests/commands/test_classify.py::test_a_list_is_evaluated
classify --encoder --evaluate --input --output --templates
    tests/commands/test_classify.py::test_folders_are_evaluated
benchmark search
    tests/commands/test_benchmark_search.py::test_both_find_the_same_rows
benchmark search --channels --dtype --queries --rows
    tests/commands/test_benchmark_search.py::test_both_find_the_same_rows
index --encoder --output
    tests/commands/test_search.py::test_rows_are_the_normalized_features_of_files
index --batch-size --dtype --encoder --output
    tests/commands/test_search.py::test_tars_are_indexed_and_shown
index --batch-size --dtype --encoder --output --weights
    tests/commands/test_search.py::test_tars_are_indexed_and_shown
index --encoder --every --output
    tests/commands/test_search.py::test_frames_keep_their_distance
index --encoder --output --video-rows
    tests/commands/test_search.py::test_a_video_is_one_row_by_either_official_definition
search
    tests/commands/test_search.py::test_texts_and_pictures_find_rows
search --output
    tests/commands/test_search.py::test_texts_and_pictures_find_rows
search --output --top-k
    tests/commands/test_search.py::test_texts_and_pictures_find_rows
search --evaluate
    tests/commands/test_search.py::test_captions_name_whole_paths_or_their_ends
search --evaluate --output
    tests/commands/test_search.py::test_captions_are_scored
demo --output --words
    tests/zero_shot/test_training.py::test_the_demo_writes_what_the_commands_take
--help
    tests/commands/test_shell.py::test_help_and_a_mistyped_option_answer_at_once
benchmark all
    tests/commands/test_benchmark_all.py::test_all_run_in_short
benchmark all --quick
    tests/commands/test_benchmark_all.py::test_all_run_in_short
benchmark all --document
    tests/commands/test_benchmark_all.py::test_the_table_is_written_between_its_marks
benchmark all --document --repeats
    tests/commands/test_benchmark_all.py::test_the_table_is_written_between_its_marks
benchmark backbone --variant
    tests/commands/test_benchmark.py::test_backbone_against_timm
benchmark coco
    tests/commands/test_benchmark_all.py::test_both_score_the_same_boxes_alike
benchmark coco --images
    tests/commands/test_benchmark_all.py::test_both_score_the_same_boxes_alike
benchmark detector
    tests/commands/test_benchmark_all.py::test_a_folder_is_detected_as_by_the_model
benchmark detector --config --input
    tests/commands/test_benchmark_all.py::test_a_folder_is_detected_as_by_the_model
benchmark deformable
    tests/commands/test_benchmark_deformable.py::test_it_reports
benchmark features
    tests/commands/test_benchmark_features.py::test_both_do_the_work
benchmark features --batch-size --device --limit --rounds --threads
    tests/commands/test_benchmark_features.py::test_both_do_the_work
benchmark features --batch-size --encoder --input --limit
    tests/commands/test_benchmark_features.py::test_both_do_the_work
benchmark fidelity
    tests/commands/test_benchmark_fidelity.py::test_a_number_that_differs_is_named
benchmark fidelity --document
    tests/commands/test_benchmark_fidelity.py::test_the_table_is_written_between_its_marks
benchmark fidelity --document --golden
    tests/commands/test_benchmark_fidelity.py::test_the_table_is_written_between_its_marks
benchmark segmentation --classes --config --input
    tests/commands/test_benchmark_segmentation.py::test_folders_against_mmseg
benchmark segmentation --engine --input
    tests/commands/test_benchmark_segmentation.py::test_folders_against_mmseg
benchmark segmentation --input
    tests/commands/test_benchmark_segmentation.py::test_folders_against_mmseg
benchmark segmentation --input --limit
    tests/commands/test_benchmark_segmentation.py::test_folders_against_mmseg
benchmark segmentation --input --memory
    tests/commands/test_benchmark_segmentation.py::test_folders_against_mmseg
benchmark shared
    tests/commands/test_benchmark.py::test_heads_on_one_pass_are_compared_with_each_alone
benchmark shared --heads --pictures --threads
    tests/commands/test_benchmark.py::test_heads_on_one_pass_are_compared_with_each_alone
benchmark shared --heads --variant
    tests/commands/test_benchmark.py::test_heads_on_one_pass_are_compared_with_each_alone
benchmark tracking
    tests/commands/test_benchmark.py::test_tracking_compares_equal_results
convert --config --input --output --to
    tests/detection/test_conversion.py::test_classes_of_coco_are_known_without_its_files
convert --input --merge --output --to
    tests/training/test_lora_runs.py::test_a_merged_checkpoint_predicts_the_same_and_is_a_plain_one
convert --input --output --patch-size --to
    tests/detection/test_conversion.py::test_tool_finds_the_variant_and_resamples_the_patches
convert --input --output --to
    tests/detection/test_conversion.py::test_tool_takes_a_detector_there_and_back
env
    tests/commands/test_shell.py::test_env_names_versions_extras_and_weights
env --json
    tests/commands/test_shell.py::test_env_names_versions_extras_and_weights
eval --slices
    tests/detection/test_slicing.py::test_evaluation_and_prediction_agree
predict --encoder --input --output --words
    tests/commands/test_predict_words.py::test_words_become_the_files_of_every_segmenter
predict --affinity --encoder --input --output --words
    tests/commands/test_predict_words.py::test_an_affinity_of_a_block_changes_the_maps
predict --background --encoder --input --output --words
    tests/commands/test_predict_words.py::test_a_background_by_words_or_by_a_threshold
predict --background-threshold --encoder --input --output --templates --words
    tests/commands/test_predict_words.py::test_a_background_by_words_or_by_a_threshold
predict --checkpoint --input --output --words
    tests/commands/test_predict_words.py::test_a_trained_head_finds_any_words
predict --checkpoint --encoder --input --output --words
    tests/inference/test_naming.py::test_the_objects_of_a_run_are_named_by_the_command
train --data --early-stopping --model --teacher --trial
    tests/own/test_alignment.py::test_a_student_is_tried_on_what_the_command_names
predict --checkpoint --input --output --tiles
    tests/commands/test_predict_tiles.py::test_one_pass_by_default_and_tiles_where_they_are_asked_for
predict --checkpoint --input --output --slices
    tests/detection/test_slicing.py::test_predict_sees_the_picture_at_its_own_size
train --cache-features --config
    tests/training/test_feature_cache.py::test_the_command_takes_the_option_and_a_resumed_run_remembers_it
sweep --config --layers --output
    tests/commands/test_sweep.py::test_variations_are_compared_in_one_table_and_go_on_after_an_interruption
sweep --config --layers --output --vary
    tests/commands/test_sweep.py::test_variations_are_compared_in_one_table_and_go_on_after_an_interruption
sweep --config --output
    tests/commands/test_sweep.py::test_probes_of_all_layers_are_trained_from_one_command
tools/dev/make_gallery.py --weights --work
    tests/commands/test_make_gallery.py::test_one_command_makes_the_pictures_that_are_asked_for
tools/dev/make_gallery.py --only --weights --work
    tests/commands/test_make_gallery.py::test_one_command_makes_the_pictures_that_are_asked_for
tools/dev/measure_tuning.py --image-size --rank --variant
    tests/commands/test_measure_tuning.py::test_states_are_sixteen_bytes_of_what_is_trained_and_four_of_what_is_not
tools/dev/measure_cached_features.py --config --output --seeds
    tests/training/test_feature_cache.py::test_the_study_times_and_judges_both_ways
tools/dev/make_demo_encoder.py
    tests/commands/test_measure_alignment.py::test_the_demo_encoder_is_a_core_file
train --allow-import --config
    tests/security/test_nothing_runs.py::test_a_package_of_ones_own_works_from_training_to_prediction_where_it_is_trusted
convert data --to
    tests/commands/test_convert_data.py::test_a_data_set_is_recognized_printed_and_converted
convert data --allow-loss --to
    tests/commands/test_convert_data.py::test_losses_are_refused_or_said
convert data --pictures --to
    tests/commands/test_convert_data.py::test_pictures_are_copied_linked_or_left_where_they_are
plan --cards --config --memory
    tests/commands/test_plan.py::test_cards_correct_the_table
train --data --encoder-from --output
    tests/own/test_encoder_from.py::test_two_heads_share_a_pass
train --data
    tests/commands/test_train_own.py::test_one_command_trains
train --data --model --output
    tests/commands/test_train_own.py::test_one_command_trains
train --data --encoder --model --weights
    tests/test_foreign_encoders.py::test_a_task_trains_and_predicts
train --data --model --teacher
    tests/own/test_alignment.py::test_the_command_is_short_and_says_what_it_does
train --data --epochs --memory --model --teacher
    tests/own/test_alignment.py::test_several_teachers_of_any_kind_train_one_student_on_one_card
train --config --memory
    tests/commands/test_plan.py::test_a_training_is_planned_before_it_begins
check --checkpoint --config
    tests/commands/test_check_labels.py::test_faults_are_listed_drawn_and_printed
push
    tests/commands/test_push.py::test_the_best_checkpoint_is_taken_and_its_own_numbers_stand_on_the_page
push --message --private
    tests/commands/test_push.py::test_a_private_model_is_not_sent_where_all_can_see_it
push --dry-run
    tests/commands/test_push.py::test_a_dry_run_writes_a_checkpoint_and_sends_nothing
eval --output
    tests/commands/test_push.py::test_predict_and_eval_take_a_model_of_the_hub
tools/dev/draw_floors.py
    tests/test_architecture.py::test_the_page_has_every_package_on_one_floor_and_the_picture_has_the_same
tools/dev/readability.py --longest --median
    tests/documents/test_readability.py::test_what_is_wrong_is_said_with_its_line
tools/dev/readability.py --longest --median --quiet --without
    tests/documents/test_readability.py::test_what_is_wrong_is_said_with_its_line
check --output
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
classify --classes --encoder --input --limit --output --templates
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
convert data --allow-loss --pictures --to
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
demo --formats --frames --output --video-size --videos
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
demo --formats --images --output
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
demo --images --output
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
demo --iterations --output --words
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
export --precision --to
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
features --encoder --input --output --pool
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
index --encoder --output --weights
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
predict --checkpoint --input --npy --output
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
predict --encoder --input --limit --output --words
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
score --annotations --input
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
search --top-k
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
tools/dev/make_notebooks.py
    tests/docs/test_notebooks.py::test_a_notebook_that_was_changed_is_named
tools/dev/tutorials.py
    tests/docs/test_tutorials.py::test_the_command_tells_output_and_seconds
track --box --config --input --mot --output
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
track --config --input --output
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
train --data --epochs --image-size --model --output
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
train --data --epochs --image-size --model --output --teacher
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
train --data --epochs --image-size --model --output --tune --weights
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
train --data --image-size --model --output
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
train --data --model --output
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
train --data --model --output --teacher
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
train --data --model --output --weights
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
visualize --checkpoint --input --limit --output
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
visualize --encoder --image-size --input --limit --output
    tests/docs/test_tutorials.py::test_a_tutorial_runs_from_start_to_end
""")

# kind of command, and why it is parsed here and no more
NOT_HERE = table("""
benchmark backbone --device --dtype --mode --pass
    needs CUDA, and compiling takes minutes on a CPU
benchmark teacher --device --input --size --weights
    needs CUDA and SAM 2's weights
benchmark teacher --grid --image-size --input --limit
    needs SAM 2; test_benchmark_teacher.py runs where it is
benchmark teacher --image-size --input
    needs SAM 2; test_benchmark_teacher.py runs where it is
train --allow-import --resume
    needs wandb and an account
<detectron2>/tools/lazyconfig_train_net.py --config-file --num-gpus
    is Detectron2's; test_detectron2_adapter.py
detectron2/tools/lazyconfig_train_net.py --config-file --num-gpus
    is Detectron2's; test_detectron2_adapter.py
tools/dev/measure_large_photographs.py --checkpoint
    needs a trained model; test_measure_large_photographs.py runs it on small pictures
track --config --input --mask --output --weights
    needs an exported encoder; tests/export/test_exported_encoder.py tracks with one
tools/dev/measure_opening.py --config
    writes a checkpoint of 7.5 GB; test_measure_opening.py runs it on a small one
tools/dev/measure_label_errors.py
    trains for an hour; test_label_errors.py tests its parts
tools/dev/measure_fine_maps.py --data --upsampler --weights
    needs a trained encoder; test_measure_fine_maps.py tests its judgment
tools/dev/measure_fine_maps.py --data --encoder --strides
    needs a sample of COCO; test_measure_fine_maps.py tests its judgment
tools/dev/measure_fine_maps.py --data --encoder --strides --weights
    needs a sample of COCO; test_measure_fine_maps.py tests its judgment
tools/dev/real_encoder.py
    needs a package of 90 MB; tests/real_weights run it
tools/dev/measure_planner.py
    takes four minutes; test_planner.py tests what it measures
tools/dev/measure_annotations.py --folder
    takes ten minutes and a gigabyte
tools/dev/measure_factory.py --data --davis --iterations --layer --output --weights
    needs samples of COCO and DAVIS and a package of 90 MB; test_measure_factory.py builds its rows and its table
tools/dev/measure_factory.py --core-parts --data --davis --iterations --layer --output --weights
    needs samples of COCO and DAVIS and a package of 90 MB; test_measure_factory.py builds its rows and its table
tools/dev/measure_factory.py --data --davis --output --weights
    needs samples of COCO and DAVIS and a package of 90 MB; test_measure_factory.py builds its rows and its table
tools/dev/measure_loading.py --data --output --weights
    needs a package of 90 MB; test_measure_factory.py packs its shards and times a small student
tools/dev/measure_alignment.py --seeds
    takes 20 minutes; test_measure_alignment.py runs its parts
train --data --epochs --memory --model --output --teacher
    needs released weights; other sizes of it run in test_tutorials.py
train --data --epochs --model --output --tune
    needs released weights; other sizes of it run in test_tutorials.py
visualize --encoder --input --layers --limit --output
    needs released weights; other sizes of it run in test_tutorials.py
""")
