"""What SLAM and MAESTRO share: several tasks in one update, each with its stream and weight; stages; w2v-BERT."""
