import gymnasium as gym, numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
S=spaces.Dict({"frame":spaces.Box(0,255,(72,96,3),np.uint8),"last_reward":spaces.Box(-np.inf,np.inf,(1,),np.float32),"last_action":spaces.Discrete(9)})
M={"autoreset_mode":AutoresetMode.NEXT_STEP,"episode_metrics":("teleports","trials","correct","wrong"),"render_fps":15,"action_repeat":4,"score_range":(0.312,65.9),"engine":"embedded"}
class V(VectorEnv):
    metadata=M
    def __init__(s,n,**k):
        s.num_envs=n; s.single_observation_space=S; s.single_action_space=spaces.Discrete(9)
        s.observation_space=gym.vector.utils.batch_space(S,n); s.action_space=spaces.MultiDiscrete([9]*n); s.t=np.zeros(n,int); s.done=np.zeros(n,bool)
    def obs(s,a,r): return {"frame":np.zeros((s.num_envs,72,96,3),np.uint8),"last_reward":r[:,None].astype(np.float32),"last_action":a}
    def reset(s,*,seed=None,options=None):
        s.t[:]=0; s.done[:]=False
        return s.obs(np.zeros(s.num_envs,int),np.zeros(s.num_envs)),{}
    def step(s,a):
        s.t=np.where(s.done,0,s.t+1); r=np.where(s.done,0,(a==3)*.1); s.done=s.t>=45
        c=np.ones(s.num_envs)
        return s.obs(a,r),r,s.done.copy(),np.zeros(s.num_envs,bool),{"teleports":c,"trials":c,"correct":c,"wrong":c}
def make_vec(name,n,**k):
    if name!="dmlab_rooms_select": raise ValueError(f"unknown environment {name!r}")
    return V(n,**k)
def names(): return ["dmlab_rooms_select"]
